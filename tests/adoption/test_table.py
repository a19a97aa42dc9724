"""The table holds what was found and every choice, in lines that a terminal shows."""

from pathlib import Path

from pipeline.adoption.intake import Intake
from pipeline.adoption.table import WIDTH, facts, plan_table
from tests.adoption.test_plan import photographs, planned


def intake(*left_out: str) -> Intake:
    return Intake(Path("raw"), "pets", num_links=3, left_out=left_out)


def test_every_choice_has_a_row_and_no_line_is_too_wide() -> None:
    survey = photographs()
    plan = planned(survey)
    lines = plan_table(intake(), survey, plan).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert [line.split()[0] for line in lines if line.split()[:1] and "." in line.split()[0]] == [
        choice.key for choice in plan.choices
    ]


def test_what_is_left_out_or_refused_is_counted_with_examples() -> None:
    refusals = {
        "9000 x 9000 pixels, at most 67108864 are decoded": 2,
        "8999 x 9000 pixels, at most 67108864 are decoded": 1,
    }
    sizes = {"16x16": 900, "32x32": 900, "scalable": 200}
    survey = photographs(
        class_sizes=sizes, num_files=2004, refusals=refusals | {"empty file": 1}, near_duplicate_share=0.12
    )
    said = "\n".join(
        facts(intake("a: a dangling link to b", *(f"{number}: may not be read" for number in range(9))), survey)
    )
    assert "3 links: what they point to was copied" in said
    assert "10 not copied: a: a dangling link to b, 0: may not be read" in said
    assert "… 5 more" in said
    assert "4 cannot be used: 3 (9000 x 9000 pixels, at most 67108864 are decoded), 1 (empty file)" in said
    assert "classes are named like sizes (16x16, 32x32)" in said
    assert "12% of the images nearly repeat an earlier one" in said


def test_strips_are_said_to_lose_all_but_their_centre() -> None:
    said = "\n".join(facts(intake(), photographs(aspect=0.05, same_aspect_share=1.0)))
    assert "20 times as long as wide: only the centre square" in said
    assert "times as long" not in "\n".join(facts(intake(), photographs(aspect=1.5, same_aspect_share=1.0)))


def test_tables_that_no_reader_looks_into_are_named_where_classes_are_missing(tmp_path: Path) -> None:
    for name in ("labels.csv", "captions.txt"):
        (tmp_path / name).touch()
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.png,dog\n")
    taken = Intake(tmp_path, "pets", num_links=0, left_out=())
    assert any(
        "not read: labels.csv; classes come from folders" in fact for fact in facts(taken, photographs(class_sizes={}))
    )
    (tmp_path / "metadata.csv").write_text("image_id,target\n1,dog\n")
    assert any("not read: labels.csv, metadata.csv" in fact for fact in facts(taken, photographs(class_sizes={})))
    assert not any("labels.csv" in fact for fact in facts(taken, photographs(class_sizes={"a": 200, "b": 200})))
