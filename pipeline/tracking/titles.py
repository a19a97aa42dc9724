"""Names and notes of pipelines' runs, by which people tell them apart in MLflow."""

import os

from pipeline.provenance import lineage
from pipeline.provenance.git import commit_line, git_line, short_commit

MAX_LENGTH = 80
MAX_PICTURES_LENGTH = 22
"""MLflow makes the picture of a card as wide as the name of its run above it, and cuts off what the card has no room for."""
MODEL_NAME = "register.model_name"
COMMANDS = """Its code, params, data and model again, in a folder of their own:

    foundry runs restore {run}

Beside another run, on one page: `foundry runs compare {run} RUN`"""


def run_name() -> str:
    """The experiment's name; else what is new: changed params, or the commit's subject."""
    if experiment := os.environ.get("DVC_EXP_NAME"):
        return experiment
    subject = git_line("show", "--no-patch", "--format=%s")
    name = _changes() or subject or f"params {lineage.params_digest(lineage.all_params())[:8]}"
    if len(name) > MAX_LENGTH and (model := (changed := lineage.changed_params()).get(MODEL_NAME)):
        # The params of other images, as `foundry adopt` chooses them.
        return f"{model}, {len(changed)} params changed"
    return _cut(name, MAX_LENGTH)


def pictures_name(run_name: str) -> str:
    """The name of the run with a pipeline's pictures."""
    return _cut(f"pictures of {run_name}", MAX_PICTURES_LENGTH)


def note(*, is_dirty: bool) -> str:
    """Commit, uncommitted changes and changed params, as Markdown."""
    commit = short_commit()
    lines = [
        f"Commit `{commit}`: {commit_line(commit)}" if commit else "Outside of git",
        "With uncommitted changes: `git-diff.patch` among the artefacts" if is_dirty else "",
        f"Params changed since: `{_changes()}`" if _changes() else "",
    ]
    return "\n\n".join(filter(None, lines))


def description(text: str, run_id: str, picture: str | None) -> str:
    """What MLflow shows with a run, as Markdown: a picture, the note, and commands that take the run further.

    Args:
        text: the note.
        run_id: of the run, in MLflow.
        picture: its address.
    """
    parts = [f"![]({picture})" if picture else "", text, COMMANDS.format(run=run_id)]
    return "\n\n".join(filter(None, parts))


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1].rstrip()}…"


def _changes() -> str:
    return " ".join(f"{key}={text}" for key, text in lineage.changed_params().items())
