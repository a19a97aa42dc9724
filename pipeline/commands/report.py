"""What the last retraining has changed: one page to look at, one comment for a pull request.

Reads: data/model, data/prepared, data/evaluation, data/registration, the registry, git
Writes: report.html, report.md

The model of the work tree is compared with the champion that it had to beat. Without a champion, without a store, or
without the champion's data at hand the report says so and shows the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import model_digest
from pipeline.errors import FoundryError
from pipeline.params import load_params
from pipeline.provenance import revisions
from pipeline.provenance.dvc_cache import link_outs
from pipeline.reporting.data_change import change_between
from pipeline.reporting.image_set import prepared_images
from pipeline.reporting.model_summaries import Folders, Side, champion_before, registered, work_tree
from pipeline.reporting.retraining import DataReview, Retraining, review, write
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.store import StoreError, answering


def main(out: Path, against: str | None, **folders: Path) -> None:

    page, comment = report(Folders(**folders), out, against=against)
    sys.stdout.write(f"{page.resolve()}\n{comment.resolve()}\n")


def report(folders: Folders, out: Path, *, against: str | None = None) -> tuple[Path, Path]:
    """Write report.html and report.md into `out`, and log them with the pipeline's run where there is one.

    Raises:
        ArtefactError: the work tree's results are missing or damaged.

    """
    params = load_params()
    path = folders.registration / "decision.json"
    decision = read_document(path) if path.exists() else None
    challenger = work_tree(folders, decision)
    champion, no_champion = _champion(params.register_.model_name, decision, challenger, against)
    data, no_data = _data(folders.prepared, champion, challenger)
    commits, files = _code(champion, challenger)
    out.mkdir(parents=True, exist_ok=True)
    written = write(
        out,
        Retraining(
            challenger=challenger,
            champion=champion,
            no_champion=no_champion,
            decision=decision,
            data=data,
            no_data=no_data,
            commits=commits,
            files=files,
            seed=params.evaluate.seed,
        ),
    )
    _log(challenger.digest, written)
    return written


def _champion(
    name: str, decision: Mapping[str, Any] | None, challenger: Side, against: str | None
) -> tuple[Side | None, str]:
    """The champion that was there before, or why none is shown."""
    digest = model_digest(challenger.folder) if challenger.folder else ""
    try:
        version = champion_before(name, decision, digest, against)
        return (None, "this is the first") if version is None else (registered(version), "")
    except StoreError as error:
        if against:
            raise
        return None, str(error)


def _data(prepared: Path, champion: Side | None, challenger: Side) -> tuple[DataReview | None, str]:
    """The images that differ, or why none are compared."""
    if champion is None:
        return None, "There is no earlier data to compare with."
    if champion.data_digest == challenger.data_digest:
        return None, "The same prepared images."
    if not champion.lock_stages:
        return None, "Other images; which ones is not known, for the champion's dvc.lock is in no commit here."
    with ExitStack() as stack:
        place = Path(stack.enter_context(TemporaryDirectory()))
        try:
            link_outs(champion.lock_stages, "data/prepared", place)
            before, after = prepared_images(place), prepared_images(prepared)
        except FoundryError as error:
            return None, f"Other images; they cannot be shown: {error}"
        return review(change_between(before, after), before, after), ""


def _code(champion: Side | None, challenger: Side) -> tuple[Sequence[str], Sequence[str]]:
    """Commits since the champion's, and files that differ; nothing where a commit is not here."""
    if champion is None or not champion.commit or not challenger.commit:
        return [], []
    if not revisions.has_commit(champion.commit):
        return [], []
    return (
        revisions.commits_between(champion.commit, challenger.commit),
        revisions.changed_files(champion.commit, challenger.commit),
    )


def _log(digest: str, written: Sequence[Path]) -> None:

    try:
        with answering():
            past = PastRuns()
            run = past.stage_run("evaluate", digest) or past.stage_run("train", digest)
            for path in written if run else ():
                past.keep(past.parent(run) or run, path)
    except StoreError as error:
        sys.stderr.write(f"not logged: {error}\n")
