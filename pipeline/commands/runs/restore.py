"""Restores the code, params, data and model of a run or of a registered version, in a git worktree of their own.

The worktree gets the commit of the run and the changes that were not committed (`git-diff.patch`), for a version also the
params.yaml and dvc.lock that were logged at its registration, and all files of that dvc.lock from DVC's cache or remote.
If anything is missing, the command names it and leaves nothing behind.
"""

import itertools
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import model_digest
from pipeline.errors import FoundryError
from pipeline.progress import waiting
from pipeline.provenance.dvc import LOCK, DvcError, dvc, md5, md5_of, stages_of
from pipeline.provenance.dvc_cache import cache_folder
from pipeline.provenance.git import GitError, git, has_commit, main_worktree
from pipeline.provenance.lineage import COMMIT_TAG, LOCK_TAG, OMITTED
from pipeline.provenance.revisions import all_revisions, commit_of_lock
from pipeline.provenance.stage_key import keys_of
from pipeline.registry import versions
from pipeline.registry.versions import Version, download
from pipeline.tracking import store
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.runs import PATCH
from pipeline.tracking.tags import DATA_TAG, DIGEST_TAG, DIRTY_TAG, KEY_TAG, STAGE_TAG, TRAINED_DIGEST_TAG


def main(run: str, out: Path | None) -> None:
    version = versions.resolve(run) if run.startswith("models:/") else None
    with store.answering():
        past = PastRuns()
        stage = past.run(version.run_id) if version else past.find(run)
        pipeline = past.parent(stage) or stage
        tags, run_id = pipeline.data.tags, pipeline.info.run_id
        patch = past.file(pipeline, PATCH)
        if tags.get(DIRTY_TAG) == "true" and patch is None:
            raise FoundryError(f"run {run_id} was made with uncommitted changes, but has no {PATCH}")
        lock_md5 = version.tags.get(LOCK_TAG) if version else None
        registration = past.registration(lock_md5) if lock_md5 else None
        params = past.file(registration, "params.yaml") if registration else None
        lock = _lock(past, registration, pipeline, lock_md5)
    out = out or main_worktree() / ".foundry" / "checkouts" / run_id[:12]
    for line in restore(tags, version, out, patch=patch, params=params, lock=lock):
        sys.stderr.write(f"{line}\n")
    sys.stdout.write(f"{out.resolve()}\n")


def _lock(past: PastRuns, registration: Any, pipeline: Any, lock_md5: str | None) -> str:
    """The logged or committed dvc.lock that has this MD5 (of a version), or the keys of all stages (of a run)."""
    children = past.children(pipeline.info.run_id)
    keys = {run.data.tags[STAGE_TAG]: run.data.tags[KEY_TAG] for run in children if KEY_TAG in run.data.tags}

    def is_wanted(lock: str) -> bool:
        if lock_md5:
            return md5(lock.encode()) == lock_md5
        return bool(keys) and keys.items() <= keys_of(lock).items()

    logged = [past.file(run, LOCK) for run in (registration, pipeline) if run]
    texts = (path.read_text(encoding="utf-8") for path in logged if path)
    for lock in itertools.chain(texts, (revision.lock for revision in all_revisions())):
        if is_wanted(lock):
            return lock
    raise FoundryError(
        f"run {pipeline.info.run_id}: no dvc.lock of this repository has its results, and none was logged with it "
        "(foundry runs reconcile logs it as long as the revision exists)"
    )


def restore(
    tags: Mapping[str, str], version: Version | None, out: Path, *, patch: Path | None, params: Path | None, lock: str
) -> Iterator[str]:
    """Create the worktree `out` and yield a line for each part that is restored.

    Raises:
        FoundryError: something is missing or differs; nothing is left behind.
    """
    with _worktree(out.resolve(), tags.get(COMMIT_TAG)):
        yield f"code      {tags[COMMIT_TAG]}{f' and {PATCH}' if patch else ''}"
        if patch is not None:
            _apply(patch, out)
        if params is not None:
            shutil.copyfile(params, out / "params.yaml")
        (out / LOCK).write_text(lock, encoding="utf-8")
        with waiting("files from DVC"):
            _check_out(out)
        yield from _restore_metrics(lock, out)
        data, model = out / "data" / "prepared", out / "data" / "model"
        yield f"data      {_checked(data, str(read_document(data / 'dataset.json')['digest']), tags.get(DATA_TAG))}"
        wanted = version.tags.get(TRAINED_DIGEST_TAG) if version else tags.get(DIGEST_TAG)
        yield f"model     {_checked(model, model_digest(model), wanted)}"
        if version is not None:
            registered = out / "data" / "registration" / "model"
            shutil.copytree(download(version.uri), registered)
            yield f"          {_checked(registered, model_digest(registered), version.digest)}, registered as {version}"


@contextmanager
def _worktree(out: Path, commit: str | None) -> Iterator[None]:
    """A new worktree, which is removed if the block fails."""
    if out.exists():
        raise FoundryError(f"{out}: already exists, wanted a new folder (`git worktree remove` removes one)")
    if commit is None or not has_commit(commit):
        raise FoundryError(f"{out}: commit {commit} of the run is not in this repository (`git fetch` gets it)")
    out.parent.mkdir(parents=True, exist_ok=True)
    git("worktree", "add", "--detach", str(out), commit, folder=main_worktree())
    try:
        yield
    except BaseException:
        with suppress(FoundryError):
            git("worktree", "remove", "--force", str(out), folder=main_worktree())
        raise


def _apply(patch: Path, out: Path) -> None:
    lines = patch.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if omitted := [line.removeprefix(OMITTED) for line in lines if line.startswith(OMITTED)]:
        raise FoundryError(f"{PATCH} of the run omits new files that were too large: {'; '.join(omitted)}")
    git("apply", "--whitespace=nowarn", str(patch.resolve()), folder=out)


def _check_out(out: Path) -> None:
    """Let DVC restore all outs and the raw data from the main worktree's cache, or from a remote if there is one."""
    dvc("cache", "dir", "--local", str(cache_folder()), folder=out)
    try:
        dvc("checkout", folder=out)
    except DvcError:
        if not dvc("remote", "list", folder=out):
            raise
        dvc("pull", folder=out)


def _restore_metrics(lock: str, out: Path) -> Iterator[str]:
    """Restore the metrics, which DVC leaves to git, from the commit of this dvc.lock; yield a line for each missing one."""
    commit = commit_of_lock(md5(lock.encode()))
    for entry in (entry for stage in stages_of(lock).values() for entry in stage.get("outs", [])):
        path, wanted = out / entry["path"], str(entry.get("md5"))
        if path.exists() and (path.is_dir() or md5_of(path) == wanted):
            continue
        path.unlink(missing_ok=True)
        with suppress(GitError):
            content = git("show", f"{commit}:{entry['path']}", folder=out).encode(errors="surrogateescape")
            if md5(content) == wanted:
                path.write_bytes(content)
        if not path.exists():
            yield f"missing   {entry['path']}: no commit has it as the run left it"


def _checked(path: Path, found: str, wanted: str | None) -> str:
    if wanted not in {None, found}:
        raise FoundryError(f"{path}: found digest {found}, the run had {wanted}")
    return found
