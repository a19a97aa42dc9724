"""`foundry gc`: the disk usage of the project, and the part of it that nothing needs; `--apply` deletes that part.

Nothing is deleted that a commit of a branch or tag, an experiment, a registered version (each stands in the history) or a
running process needs, so each of them can still be restored.
"""

import sys
from collections.abc import Iterable
from itertools import chain

from pipeline.artefacts.sizes import MIB
from pipeline.errors import FoundryError
from pipeline.progress import waiting
from pipeline.provenance.dvc import LOCK, md5
from pipeline.provenance.garbage import exclusive_cache
from pipeline.provenance.git import main_worktree
from pipeline.provenance.lineage import LOCK_TAG
from pipeline.provenance.revisions import all_revisions
from pipeline.registry import versions
from pipeline.registry.versions import Version
from pipeline.tracking import store
from pipeline.tracking.past_runs import PastRuns

KEPT = {
    "states of trainings": (".foundry/training", "of the 3 last finished and the 16 last stopped ones, at most"),
    "restored checkouts": (".foundry/checkouts", "`git worktree remove --force FOLDER` gives one up"),
    "examined images": (".foundry/examined", "which `prepare` used in the last 30 days; all may be deleted"),
    "images being adopted": (
        ".foundry/adoption",
        "left by a killed `foundry adopt`: the next one settles all but `unfinished-N`",
    ),
    "files of MLflow": (store.ARTIFACTS, "also of refused versions, which a person may promote"),
}
"""Places that this command only measures, each with a note."""


def main(*, apply: bool) -> None:
    """Print a table of places and of what can go; delete that if `apply`.

    Raises:
        FoundryError: DVC is at work, or nobody knows what a commit or version needs; nothing is deleted.
    """
    locks = locks_of_versions()
    with exclusive_cache() as cache:
        with waiting("reading what every commit and experiment needs"):
            sizes = cache.sizes()
            without_commit = sizes.keys() - cache.named_by_commits() - cache.named_by(locks)
            of_experiments = without_commit & cache.named_by_experiments()
        unused = without_commit - of_experiments
        can_go = sum(sizes[key] for key in unused)
        write_row("place", "MiB", "can go", "")
        write_row(
            "results in DVC's cache", mib(sizes.values()), mib([can_go]), f"{len(unused):,} of {len(sizes):,} files"
        )
        text = "needed by experiments alone; `dvc exp remove NAME` gives one up"
        write_row("  of these", mib(sizes[key] for key in of_experiments), "", text)
        if apply:
            cache.delete(unused)
    for place, (folder, text) in KEPT.items():
        files = (path for path in (main_worktree() / folder).rglob("*") if path.is_file() and not path.is_symlink())
        write_row(place, mib(path.stat().st_size for path in files), "", text)
    done = "were freed" if apply else "can go: `foundry gc --apply` deletes it"
    sys.stdout.write(f"{mib([can_go])} MiB {done}\n")


def locks_of_versions() -> list[str]:
    """The dvc.lock of each registered version that has one.

    Raises:
        FoundryError: the store does not answer, or nobody knows what a version needs.
    """
    if not store.exists():
        # Who only looks makes no database.
        return []
    with store.answering():
        past = PastRuns()
        return [lock for version in versions.registered() if (lock := lock_of(version, past))]


def lock_of(version: Version, past: PastRuns) -> str | None:
    """The dvc.lock with which a version was registered; None if it was registered without one.

    Raises:
        FoundryError: it is neither logged nor in a commit or experiment.
    """
    wanted = version.tags.get(LOCK_TAG)
    if wanted is None:
        return None
    logged = past.file(past.run(version.run_id), LOCK)
    texts = [logged.read_text(encoding="utf-8")] if logged else []
    for lock in chain(texts, (revision.lock for revision in all_revisions())):
        if md5(lock.encode(errors="surrogateescape")) == wanted:
            return lock
    raise FoundryError(
        f"{version}: its dvc.lock is neither logged nor committed, so nobody knows which results it needs; `git fetch` "
        "may bring the commit, or delete the version in MLflow"
    )


def write_row(place: str, size: str, can_go: str, text: str) -> None:
    sys.stdout.write(f"{place:23}{size:>10}{can_go:>10}  {text}".rstrip() + "\n")


def mib(sizes: Iterable[int]) -> str:
    return f"{sum(sizes) / MIB:,.1f}"
