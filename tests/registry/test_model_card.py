from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artefacts.model import DataSpec, Description
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.evaluation.figures import FIGURES
from pipeline.registry.gate.promotion import Decision
from pipeline.registry.gate.rule import Rule
from pipeline.registry.model_card import MAX_DESCRIPTION, THE_REST, description, model_card, shortened
from tests.small_sets import BETTER_THAN_BASELINES, PARAMS, SMALL_NETWORK

METRICS = {
    **BETTER_THAN_BASELINES,
    "evaluate/num_images": 2000.0,
    "evaluate/kid": 0.02,
    "evaluate/kid_standard_error": 0.05,
    "evaluate/class_agreement": 0.88,
    "evaluate/class_agreement_standard_error": 0.01,
    "evaluate/near_copy_share": 0.01,
    "floor/kid": 0.01,
    "floor/class_agreement": 0.9,
    "floor/near_copy_share": 0.01,
    "baseline/kid": 1.5,
}


def card(metrics: Mapping[str, float] = METRICS, *, teacher: Mapping[str, Any] | None = None, **changes: Any) -> str:
    description = Description(
        data=DataSpec(image_size=28, channels=1, class_names=("T-shirt/top", "a|b *c*"), sigma_data=0.7),
        network=SMALL_NETWORK,
        target="v",
        sampling=DEFAULT_SAMPLING,
        provenance={"data_digest": "da7a"} | ({"teacher": teacher} if teacher else {}),
    )
    content: dict[str, Any] = {
        "description": description,
        "digest": "d1g3st",
        "metrics": metrics,
        "params": PARAMS,
        "validation": {"counts": {"train": 60000, "held_out": 10000}, "checks": {"a": {"success": True}}},
        "decision": Decision(decision="accept", rules=[Rule("kid_is_lower", True, 1.0, "")], model_digest="d1g3st"),  # noqa: FBT003
    }
    return model_card("fashion-mnist", **content | changes)


def test_a_card_has_every_section_and_identifies_the_model() -> None:
    text = card()
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == [
        "# Model card: fashion-mnist",
        "## Intended use",
        "## Training data",
        "## Training",
        "## Figures",
        "## Limits",
        "## Decision",
        "## Licence",
    ]
    assert all(fact in text for fact in ("d1g3st", "da7a", "60,000", "Apache-2.0", "`accept`, by 1 rule"))


def test_figures_stand_beside_their_floors_with_half_an_interval() -> None:
    assert f"| {FIGURES['kid'].label} | 0.02 ± 0.098 | 0.01 | 1.5 |" in card()
    assert FIGURES["frechet_distance"].label not in card()


def test_distances_by_rows_are_in_their_order_with_their_floors() -> None:
    measured = {"evaluate/frechet_distance_at_10_rows": 2.5, "evaluate/frechet_distance_at_2_rows": 40.25}
    floors = {name.replace("evaluate", "floor"): 0.75 for name in measured}
    assert "| 2 | 40.2 | 0.75 |\n| 10 | 2.5 | 0.75 |\n" in card({**METRICS, **measured, **floors})
    assert "| rows |" not in card()


def test_a_good_model_gets_no_warning() -> None:
    limits = card().split("## Limits")[1].split("##")[0]
    assert len([line for line in limits.splitlines() if line.startswith("- ")]) == 3


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"evaluate/kid": 1.2}, "Its distance from real images is 80% of the mixture's"),
        ({"evaluate/kid": 1.6}, "Worse than a mixture of Gaussians"),
        (
            {"evaluate/mse_over_linear": 1.1, "evaluate/levels_better_than_linear": 0.5},
            "Not better than the best linear",
        ),
        ({"evaluate/class_agreement": 0.7}, "recognised in 70.0% of its images and in 90.0% of real ones"),
        ({"evaluate/near_copy_share": 0.2}, "repeats training images"),
    ],
)
def test_poor_figures_become_limits(changes: dict[str, float], warning: str) -> None:
    assert warning in card(METRICS | changes)
    assert warning not in card()


def test_a_card_begins_with_the_verdict_and_ends_its_limits_with_what_helps() -> None:
    assert (
        card().splitlines()[2].startswith("**Better than the baselines: better than a mixture of Gaussians (KID 0.02")
    )
    text = card(METRICS | {"evaluate/kid": 1.6})
    assert text.splitlines()[2].startswith(
        "**Not better than the baselines: worse than a mixture of Gaussians (KID 1.6"
    )
    assert "What most likely helps: a longer training: `foundry set train.num_images=" in text.split("## Decision")[0]


def test_foreign_names_are_escaped() -> None:
    assert r"a\|b \*c\*" in card()


def test_the_card_of_a_student_names_its_teacher_and_says_whose_losses_it_shows() -> None:
    drawn = {"sampler": "dpmpp_2m", "num_steps": 10, "guidance_scale": 1.2, "guidance_interval": [0.5, 0.9]}
    teacher = {"digest": "7eac4e5", **drawn}
    text = " ".join(card(teacher=teacher).split())
    assert "a student: it was distilled from the model `7eac4e5`, whose images in 10 steps of `dpmpp_2m`" in text
    assert "with guidance 1.2 from 0.5 to 0.9 of the steps it draws in 20 steps" in text
    unguided = " ".join(card(teacher=teacher | {"guidance_scale": 1.0}).split())
    assert "in 10 steps of `dpmpp_2m` without guidance it draws in 20 steps" in unguided
    assert "Bits/dim and errors on held-out images are those of the model that this one was distilled from." in text
    assert "distilled" not in card()


def test_a_paragraph_is_one_line_for_mlflow_and_tables_and_lists_stay_as_they_are() -> None:
    written = "# Title\n\nA paragraph of\ntwo `lines`\n(or three).\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- one\n- two\n"
    shown = description(written, "![](picture)", "## Commands\n\n    foundry serve\n")
    assert shown.split("\n\n")[:3] == ["# Title", "![](picture)", "A paragraph of two `lines` (or three)."]
    assert "| a | b |\n|---|---|\n| 1 | 2 |\n\n- one\n- two\n\n## Commands\n\n    foundry serve\n" in shown
    assert len(description(written * 200, "![](picture)", "## Commands")) <= MAX_DESCRIPTION


@given(st.lists(st.text(alphabet="ab |", max_size=80), max_size=60), st.integers(200, 3000))
def test_a_card_that_is_too_long_for_the_store_keeps_whole_lines_and_says_where_the_rest_is(
    lines: list[str], limit: int
) -> None:
    card = "\n".join(lines)
    found = shortened(card, limit)
    assert len(found) <= limit
    assert found == card or (found.endswith(THE_REST) and card.startswith(f"{found.removesuffix(THE_REST)}\n"))
