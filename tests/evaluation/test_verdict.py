from collections.abc import Mapping

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.verdict import Verdict, verdict
from pipeline.params import TrainParams
from tests.small_sets import PARAMS

GOOD = {
    "evaluate/num_images": 2000.0,
    "evaluate/kid_to_all": 0.1,
    "evaluate/kid_to_all_standard_error": 0.05,
    "floor/kid_to_all": -0.01,
    "floor/kid_to_all_standard_error": 0.02,
    "baseline/kid_to_all": 1.0,
    "evaluate/levels_better_than_linear": 1.0,
    "evaluate/mse_over_linear": 0.6,
    "evaluate/mse_over_training": 1.02,
    "evaluate/class_agreement": 0.9,
    "evaluate/class_agreement_standard_error": 0.01,
    "floor/class_agreement": 0.9,
    "floor/class_agreement_standard_error": 0.01,
    "evaluate/near_copy_share": 0.01,
    "evaluate/near_copy_share_standard_error": 0.002,
    "floor/near_copy_share": 0.01,
    "floor/near_copy_share_standard_error": 0.002,
}


def of(changes: Mapping[str, float] = {}) -> Verdict:
    return verdict(GOOD | changes, PARAMS.train)


def answer(name: str, **changes: float) -> bool | None:
    found = of({key.replace("__", "/"): value for key, value in changes.items()}).finding(name)
    assert found is not None
    return found.is_good


def test_a_good_model_is_better_than_both_baselines_and_has_no_warning() -> None:
    found = of()
    assert found.is_good
    assert found.warnings == []
    assert found.lines()[0].startswith("Better than the baselines: better than a mixture of Gaussians (KID 0.1 ± 0.098")
    assert "its distance from real images is 10% of the mixture's" in found.headline
    assert "No fault stands out" in found.advice


@given(st.floats(-1, 3), st.floats(0, 1))
def test_a_model_is_better_worse_or_not_to_be_told_from_the_mixture_by_its_whole_interval(
    kid: float, error: float
) -> None:
    found = answer("mixture", evaluate__kid_to_all=kid, evaluate__kid_to_all_standard_error=error)
    low, high = kid - 1.96 * error, kid + 1.96 * error
    if abs(low - 1) > 1e-3 and abs(high - 1) > 1e-3:
        assert found is (True if high < 1 else False if low > 1 else None)


def test_an_error_larger_than_the_difference_allows_no_verdict() -> None:
    found = of({"evaluate/kid_to_all_standard_error": 1.0})
    assert found.is_good is None
    assert found.headline.startswith("Not known to be better than the baselines: not distinguishable from a mixture")


def test_classes_recognised_less_often_than_the_mixtures_are_worse_than_it_whatever_the_kid() -> None:
    mixture = {"baseline__class_agreement": 0.6, "baseline__class_agreement_standard_error": 0.01}
    assert answer("mixture", **mixture)
    assert answer("mixture", **mixture, evaluate__class_agreement=0.58)
    assert answer("mixture", **mixture, evaluate__class_agreement=0.56) is False


def test_a_mixture_that_is_recognised_more_often_than_real_images_is_no_measure_of_classes() -> None:
    mixture = {"baseline__class_agreement": 0.998, "baseline__class_agreement_standard_error": 0.001}
    assert answer("mixture", **mixture, evaluate__class_agreement=0.89)
    assert answer("mixture", **mixture, evaluate__class_agreement=0.86) is False


def test_nine_of_ten_noise_levels_have_to_be_below_the_linear_denoiser() -> None:
    assert answer("linear", evaluate__levels_better_than_linear=22 / 24)
    assert answer("linear", evaluate__levels_better_than_linear=21 / 24) is False
    found = of({"evaluate/levels_better_than_linear": 0.5, "evaluate/mse_over_linear": 1.2})
    assert found.is_good is False
    assert found.headline.startswith("Not better than the baselines")
    longer = 4 * PARAMS.train.num_images
    assert f"a longer training: `foundry set train.num_images={longer} && dvc repro`" in found.advice


def test_half_of_the_mixtures_distance_is_near_to_real_images() -> None:
    assert answer("real", floor__kid_to_all=0.2, evaluate__kid_to_all=0.6)
    assert answer("real", floor__kid_to_all=0.2, evaluate__kid_to_all=0.61) is False
    assert answer("real", floor__kid_to_all=1.2) is None
    assert "is 30 times the mixture's" in of({"evaluate/kid_to_all": 30.0}).headline


def test_shares_differ_beyond_two_standard_errors() -> None:
    # The errors of both sides together: sqrt(2) 0.01 and sqrt(2) 0.002.
    assert answer("classes", evaluate__class_agreement=0.9 - 0.028)
    assert answer("classes", evaluate__class_agreement=0.9 - 0.029) is False
    assert answer("copies", evaluate__near_copy_share=0.01 + 0.0056)
    assert answer("copies", evaluate__near_copy_share=0.01 + 0.0058) is False


def test_copies_and_over_fitting_call_for_images_and_not_for_a_longer_training() -> None:
    for changes in ({"evaluate/near_copy_share": 0.2}, {"evaluate/mse_over_training": 1.4}):
        found = of(changes)
        assert "more images" in found.advice
        assert "num_images" not in found.advice
        assert len(found.warnings) == 1


def test_a_remedy_that_is_taken_already_is_not_advised_again() -> None:
    train, advised = PARAMS.train.model_dump(mode="json"), []
    for _ in range(4):
        advice = verdict(GOOD | {"evaluate/mse_over_training": 1.4}, TrainParams.model_validate(train)).advice
        key, _, value = advice.split("foundry set ")[1].strip("'").split(" && ")[0].strip("'").partition("=")
        advised.append(key)
        *sections, name = key.split(".")[1:]
        changed = train
        for section in sections:
            changed = changed[section]
        changed[name] = yaml.safe_load(value)
    assert advised == [
        "train.augmentation.kinds", "train.network.dropout", "train.stop_when_overfitting", "train.network.widths",
    ]  # fmt: skip


def test_metrics_of_an_earlier_release_are_judged_by_the_figures_that_they_have() -> None:
    old = {"evaluate/kid": 0.1, "evaluate/kid_standard_error": 0.01, "baseline/kid": 1.0, "floor/kid": 0.0}
    found = verdict(old, PARAMS.train)
    assert [(each.name, each.is_good) for each in found.findings] == [
        ("mixture", True),
        ("linear", None),
        ("real", True),
    ]
    assert found.is_good is None


def test_the_losses_of_a_student_are_said_to_be_its_teachers() -> None:
    own, of_teacher = (verdict(GOOD, PARAMS.train, student=student) for student in (None, PARAMS.distil))
    for name in ("linear", "over-fitting"):
        mine, theirs = own.finding(name), of_teacher.finding(name)
        assert mine is not None
        assert theirs is not None
        assert theirs.text == f"its teacher: {mine.text}"
    assert "its teacher: better than the best linear denoiser" in of_teacher.headline
    assert own.is_good == of_teacher.is_good


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_weak_student_is_advised_a_longer_training_of_its_own_and_then_more_steps_or_a_better_teacher(
    steps: int,
) -> None:
    student = PARAMS.distil.model_copy(update={"steps": steps})
    longer = f"a longer training of the student: `foundry set distil.num_images={2 * student.num_images} && dvc repro`"
    then = {1: "distil.steps=2", 2: "distil.steps=4", 4: f"train.num_images={2 * PARAMS.train.num_images}"}[steps]
    for changes in ({"evaluate/kid_to_all": 0.7}, {"evaluate/kid_to_all": 1.2}, {"evaluate/class_agreement": 0.8}):
        advice = verdict(GOOD | changes, PARAMS.train, student=student).advice
        assert advice.startswith(f"What most likely helps: {longer}; then ")
        assert then in advice
    assert longer in verdict(GOOD, PARAMS.train, student=student).advice


def test_a_student_of_a_teacher_that_has_learnt_too_little_or_by_heart_is_advised_another_teacher() -> None:
    for changes in ({"evaluate/levels_better_than_linear": 0.5}, {"evaluate/mse_over_training": 1.4}):
        advice = verdict(GOOD | changes, PARAMS.train, student=PARAMS.distil).advice
        assert advice == of(changes).advice


@pytest.mark.parametrize("metrics", [{}, {"evaluate/kid": float("nan"), "baseline/kid": 1.0}])
def test_without_figures_there_is_no_verdict(metrics: Mapping[str, float]) -> None:
    assert verdict(metrics, PARAMS.train).is_good is None
