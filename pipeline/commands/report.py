"""`foundry report`: the changes of the last retraining, as a page to read and a comment for a pull request.

Reads: data/model, data/prepared, data/evaluation, data/registration, the registry, git
Writes: report.html, report.md

Compares the model of the work tree with the champion it competed with. Without a champion, a tracking store or the
champion's data, the report names what is missing and shows the rest.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import model_digest
from pipeline.errors import FoundryError
from pipeline.evaluation.verdict import verdict
from pipeline.params import load_params
from pipeline.provenance import git
from pipeline.provenance.dvc_cache import link_outs
from pipeline.reporting.data_change import ShownChange, change_between, with_images
from pipeline.reporting.image_set import open_prepared
from pipeline.reporting.model_summaries import (
    Folders,
    ModelSummary,
    summarize_version,
    summarize_work_tree,
    version_to_compare,
)
from pipeline.reporting.retraining import Retraining, write
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.store import StoreError, answering


def main(out: Path, against: str | None, **folders: Path) -> None:
    page, comment = report(Folders(**folders), out, against=against)
    sys.stdout.write(f"{page.resolve()}\n{comment.resolve()}\n")


def report(folders: Folders, out: Path, *, against: str | None = None) -> tuple[Path, Path]:
    """Write report.html and report.md into `out` and log them to the pipeline's run, if there is one.

    Raises:
        ArtefactError: the work tree's results are missing or damaged.
    """
    params = load_params()
    path = folders.registration / "decision.json"
    decision = read_document(path) if path.exists() else None
    challenger = summarize_work_tree(folders, decision)
    champion, no_champion = _champion(params.register_.model_name, decision, challenger, against)
    data, no_data = _data(folders.prepared, champion, challenger)
    commits, files = _code(champion, challenger)
    retraining = Retraining(
        challenger=challenger,
        champion=champion,
        verdict=verdict(challenger.metrics, params.train, student=params.student).lines(),
        no_champion=no_champion,
        decision=decision,
        data=data,
        no_data=no_data,
        commits=commits,
        files=files,
        seed=params.evaluate.seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    written = write(out, retraining)
    _log(challenger.digest, written)
    return written


def _champion(
    name: str, decision: Mapping[str, Any] | None, challenger: ModelSummary, against: str | None
) -> tuple[ModelSummary | None, str]:
    """Return the model to compare with, or None and the reason."""
    digest = model_digest(challenger.folder) if challenger.folder else ""
    try:
        version = version_to_compare(name, decision, digest, against)
        return (None, "this is the first model") if version is None else (summarize_version(version), "")
    except StoreError as error:
        if against:
            raise
        return None, str(error)


def _data(prepared: Path, champion: ModelSummary | None, challenger: ModelSummary) -> tuple[ShownChange | None, str]:
    """Return the change of the images, or None and the reason."""
    if champion is None:
        return None, "There is no earlier data to compare with."
    if champion.data_digest == challenger.data_digest:
        return None, "The same prepared images."
    if not champion.lock_stages:
        return (
            None,
            "The images changed, but the champion's dvc.lock is in no commit of this repository: the changes are unknown.",
        )
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory()))
        try:
            link_outs(champion.lock_stages, "data/prepared", place)
            before, after = open_prepared(place), open_prepared(prepared)
        except FoundryError as error:
            return None, f"The images changed, but the champion's cannot be read: {error}"
        return with_images(change_between(before, after), before, after), ""


def _code(champion: ModelSummary | None, challenger: ModelSummary) -> tuple[Sequence[str], Sequence[str]]:
    """Return the commits since the champion's and the changed files; nothing if a commit is unknown."""
    old, new = champion.commit if champion else None, challenger.commit
    if not old or not new or not git.has_commit(old):
        return [], []
    return git.commits_between(old, new), git.changed_files(old, new)


def _log(digest: str, written: Sequence[Path]) -> None:
    try:
        with answering():
            past = PastRuns()
            run = past.stage_run("evaluate", digest) or past.stage_run("train", digest)
            for path in written if run else ():
                past.keep(past.parent(run) or run, path)
    except StoreError as error:
        sys.stderr.write(f"report not logged: {error}\n")
