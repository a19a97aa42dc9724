from pipeline.evaluation.figures import chief_table


def test_the_losses_of_a_student_are_said_to_be_its_teachers() -> None:
    metrics = {"evaluate/kid": 0.5, "evaluate/bits_per_dim": 3.0, "floor/kid": 0.0}
    own, of_teacher = (chief_table(metrics, is_distilled=is_distilled) for is_distilled in (False, True))
    assert own.splitlines()[2:] == ["| KID | 0.5 | 0 |  |", "| bits/dim | 3 |  |  |"]
    assert of_teacher == own.replace("bits/dim", "bits/dim (its teacher's)")
