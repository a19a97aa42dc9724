"""The plan as text: what was found, what is chosen and why, what it costs, how to change it."""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping

from pipeline.adoption.intake import Intake
from pipeline.adoption.plan import Plan
from pipeline.adoption.survey import Survey
from pipeline.adoption.training_choices import MOST_OBLONG, is_oblong

WIDTH = 120
MOST_NAMES = 5


def plan_table(intake: Intake, survey: Survey, plan: Plan) -> str:
    """All lines, at most `WIDTH` wide."""
    key_width = max(len(choice.key) for choice in plan.choices)
    value_width = max(len(json.dumps(choice.value)) for choice in plan.choices)
    indent = " " * (key_width + value_width + 4)
    lines = [line for fact in facts(intake, survey) for line in wrapped(fact)]
    lines += ["", f"{'param':{key_width}}  {'chosen':{value_width}}  found: why"]
    for choice in plan.choices:
        head = f"{choice.key:{key_width}}  {json.dumps(choice.value):{value_width}}  "
        lines += textwrap.wrap(f"{choice.found}: {choice.why}", WIDTH, initial_indent=head, subsequent_indent=indent)
    stages = ", ".join(f"{stage} {seconds / 60:.1f}" for stage, seconds in plan.seconds.items())
    total = sum(plan.seconds.values()) / 60
    lines += [
        "",
        *wrapped(
            f"minutes here: {stages}; {total:.0f} in all. Memory while training: {plan.memory_mib / 1024:.1f} GiB."
        ),
    ]
    lines += [
        "to change a choice: adopt again with --minutes, --image-size or --name; or later `foundry set KEY=VALUE`"
    ]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Lines of at most `WIDTH`, all but the first indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def facts(intake: Intake, survey: Survey) -> Iterator[str]:
    """Findings that no param shows."""
    yield f"{intake.name}: {survey.num_images:,} of {survey.num_files:,} images can be used, read as `{survey.kind}`"
    if intake.num_links:
        yield f"{intake.num_links:,} links: what they point to was copied"
    if intake.left_out:
        yield f"{len(intake.left_out):,} not copied: {_first(intake.left_out)}"
    if survey.refusals:
        yield f"{survey.num_files - survey.num_images:,} cannot be used: {_first(_reasons(survey.refusals))}"
    if sizes := [name for name in survey.class_sizes if re.fullmatch(r"\d+x\d+", name)]:
        yield f"classes are named like sizes ({_first(sizes)}): their folders alone may be what you want to adopt"
    if survey.same_aspect_share < 1 and not is_oblong(survey):
        yield f"{1 - survey.same_aspect_share:.0%} of the images have another aspect than most: of each, the centre square is used"
    elif (longer := max(survey.aspect, 1 / survey.aspect)) > MOST_OBLONG:
        yield f"the images are {longer:.0f} times as long as wide: only the centre square of each is used; cut them up before"
    if len(survey.class_sizes) < 2 and intake.tables:
        yield (
            f"not read: {_first(intake.tables)}; classes come from folders, or from a `metadata.csv` beside the images "
            "with the columns `file_name` and `label`"
        )
    if survey.near_duplicate_share > 0.01:
        yield (
            f"{survey.near_duplicate_share:.0%} of the images nearly repeat an earlier one, {survey.duplicate_share:.0%} exactly; "
            "data/prepared/report.html will show them"
        )


def _reasons(refusals: Mapping[str, int]) -> list[str]:
    """Reasons with their counts; those that differ only in numbers are one, shown by its first example."""
    alike: dict[str, list[str]] = {}
    for reason in refusals:
        alike.setdefault(re.sub(r"\d+", "0", reason), []).append(reason)
    counts = {reasons[0]: sum(refusals[reason] for reason in reasons) for reasons in alike.values()}
    return [f"{count:,} ({reason})" for reason, count in counts.items()]


def _first(texts: tuple[str, ...] | list[str]) -> str:
    more = f", … {len(texts) - MOST_NAMES:,} more" if len(texts) > MOST_NAMES else ""
    return ", ".join(texts[:MOST_NAMES]) + more
