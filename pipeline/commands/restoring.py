"""A run's code, params, data and model in a work tree of their own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import model_digest
from pipeline.errors import FoundryError
from pipeline.provenance import dvc_cache, revisions
from pipeline.provenance.revisions import Revision
from pipeline.provenance.stage_key import KEY_TAG
from pipeline.registry import versions
from pipeline.registry.registry import download
from pipeline.registry.versions import Version
from pipeline.tracking import store
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.reconcile import HIT_TAG, keys_of
from pipeline.tracking.tags import DIGEST_TAG, STAGE_TAG

PATCH = "git-diff.patch"
LEFT_OUT = "# a new file, not in this patch: "


class MissingError(FoundryError):
    """Something of a run can no longer be had."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a run was made from, as the store has it."""

    name: str
    """As the user said it."""
    pipeline_id: str
    """The run of the whole pipeline."""
    commit: str
    patch: Path | None
    """What was not committed; None where all was."""
    params: Mapping[str, str]
    """By dotted name."""
    keys: Mapping[str, str]
    """Of the stages that ran or were taken from the cache: all that the lock must agree with."""
    lock: Path | None
    """dvc.lock, where `foundry runs reconcile` has kept it."""
    lock_md5: str | None
    """Of the dvc.lock that a version was registered with."""
    data_digest: str | None
    model_digest: str | None
    """Of the model as training made it."""
    version: Version | None


def origin_of(name: str) -> Origin:
    """Find a run, or the run behind a registered version.

    Raises:
        StoreError: the store does not have it, or does not answer.
        MissingError: the store lacks what is needed to restore it.

    """
    version = versions.resolve(name) if name.startswith("models:/") else None
    with store.answering():
        past = PastRuns()
        run = past.run(version.run_id if version else name)
        pipeline = past.parent(run) or run
        children = past.children(pipeline.info.run_id)
        tags = _last_tags([pipeline, *children]) | dict(pipeline.data.tags)
        commit = tags.get("git.commit")
        if commit is None:
            raise MissingError(f"{name}: run {pipeline.info.run_id} has no tag git.commit: it was made outside of git")
        patch = past.file(pipeline, PATCH)
        if tags.get("git.dirty") == "true" and patch is None:
            raise MissingError(f"{name}: run {pipeline.info.run_id} was made with changes, but has no {PATCH}")
        return Origin(
            name=name,
            pipeline_id=pipeline.info.run_id,
            commit=commit,
            patch=patch,
            params=dict(pipeline.data.params),
            keys={run.data.tags[STAGE_TAG]: run.data.tags[KEY_TAG] for run in children if KEY_TAG in run.data.tags},
            lock=past.file(pipeline, revisions.LOCK),
            lock_md5=version.tags.get("dvc.lock.md5") if version else None,
            data_digest=tags.get("data.digest"),
            model_digest=_trained_digest(past, children),
            version=version,
        )


def restore(origin: Origin, out: Path) -> Iterator[str]:
    """Make the work tree `out`; says what it does, line by line.

    Raises:
        MissingError: something is not here any more; nothing is left behind.

    """
    if out.exists():
        raise FoundryError(f"{out}: is there already, wanted a new folder (git worktree remove takes one away)")
    if not revisions.has_commit(origin.commit):
        raise MissingError(f"{origin.name}: commit {origin.commit} is not in this repository (git fetch gets it)")
    revision = _revision(origin)
    with _work_tree(out, origin.commit):
        yield f"code      {origin.commit}" + _laid_over(origin, out)
        _check_params(origin, out)
        yield f"params    {len(origin.params)} values, as the run had them"
        (out / revisions.LOCK).write_text(revision.lock, encoding="utf-8")
        _check_out(origin, out)
        yield from _committed_outs(revision, out)
        yield f"data      {_checked_data(origin, out)}"
        yield f"model     {_checked_model(origin, out)}"


def _last_tags(runs: list[Any]) -> dict[str, str]:
    """What the runs say together; the later ones know more."""
    return {key: value for run in runs for key, value in run.data.tags.items()}


def _trained_digest(past: PastRuns, children: list[Any]) -> str | None:
    for run in children:
        if run.data.tags.get(STAGE_TAG) == "train":
            maker = run.data.tags.get(HIT_TAG)
            digest: str | None = (past.run(maker) if maker else run).data.tags.get(DIGEST_TAG)
            return digest
    return None


def _revision(origin: Origin) -> Revision:
    """The revision whose dvc.lock has the run's outcomes."""
    for revision in revisions.all_revisions():
        md5 = hashlib.md5(revision.lock.encode(), usedforsecurity=False).hexdigest()
        keys = keys_of(revision)
        if md5 == origin.lock_md5 or (origin.keys and origin.keys.items() <= keys.items()):
            return revision
    if origin.lock is not None:
        return revisions.Revision("the run's own", None, origin.lock.read_text(encoding="utf-8"))
    raise MissingError(
        f"{origin.name}: no dvc.lock of this repository has the outcomes of run {origin.pipeline_id}, nor is one kept "
        "with it (foundry runs reconcile keeps it, while the revision is there)"
    )


@contextmanager
def _work_tree(out: Path, commit: str) -> Iterator[None]:
    """A new work tree, which is taken away again when the block fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    revisions.git("worktree", "add", "--detach", str(out.resolve()), commit)
    try:
        yield
    except BaseException:
        with suppress(FoundryError):
            revisions.git("worktree", "remove", "--force", str(out.resolve()))
        raise


def _laid_over(origin: Origin, out: Path) -> str:
    """Apply what was not committed."""
    if origin.patch is None:
        return ""
    text = origin.patch.read_text(encoding="utf-8", errors="surrogateescape")
    left_out = [line.removeprefix(LEFT_OUT) for line in text.splitlines() if line.startswith(LEFT_OUT)]
    if left_out:
        raise MissingError(f"{origin.name}: {PATCH} leaves out {'; '.join(left_out)}")
    revisions.git("apply", "--whitespace=nowarn", str(origin.patch.resolve()), folder=out)
    return f" and {PATCH}"


def _check_params(origin: Origin, out: Path) -> None:
    found = dict(revisions.flattened(yaml.safe_load((out / "params.yaml").read_text(encoding="utf-8"))))
    differing = sorted(key for key in found.keys() | origin.params.keys() if found.get(key) != origin.params.get(key))
    if origin.params and differing:
        key = differing[0]
        raise MissingError(
            f"{out / 'params.yaml'}: {key}: found {found.get(key)}, the run had {origin.params.get(key)} "
            f"({len(differing)} params differ)"
        )


def _check_out(origin: Origin, out: Path) -> None:
    """Let DVC put all outs and the raw data in place, from the cache that the main work tree uses."""
    _dvc(out, "cache", "dir", "--local", str(dvc_cache.cache_folder()))
    said = _dvc(out, "checkout", may_fail=True)
    if said is None:
        return
    if _dvc(out, "remote", "list", may_fail=True) is None and _has_remote(out):
        said = _dvc(out, "pull", may_fail=True)
    if said is not None:
        raise MissingError(f"{origin.name}: DVC cannot restore all of its files: {said}")


def _has_remote(out: Path) -> bool:
    configuration = (out / ".dvc" / "config").read_text(encoding="utf-8")
    return "['remote " in configuration or '[remote "' in configuration


def _dvc(out: Path, *arguments: str, may_fail: bool = False) -> str | None:
    """Run DVC in the work tree; its complaint where it may fail and does.

    Raises:
        FoundryError: it fails and may not.

    """
    kept_out = ("DVC_", "GIT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(kept_out)}
    done = subprocess.run(  # noqa: S603  # the arguments are ours
        [sys.executable, "-m", "dvc", *arguments],
        cwd=out,
        env=environment | {"DVC_NO_ANALYTICS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.returncode:
        return None
    said = " ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
    if not may_fail:
        raise FoundryError(f"{out}: dvc {arguments[0]}: {said}")
    return said


def _committed_outs(revision: Revision, out: Path) -> Iterator[str]:
    """Metrics, which DVC leaves to git: those of the revision, where the run's commit has others."""
    for entry in revisions.stages_of(revision.lock).values():
        for each in entry.get("outs", []):
            path, md5 = str(each["path"]), str(each.get("md5"))
            if md5.endswith(".dir") or _md5(out / path) == md5:
                continue
            content = revisions.content(revision, path)
            if content is None or hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                yield f"missing   {path}: no revision here has it as the run left it"
                (out / path).unlink(missing_ok=True)
            else:
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                (out / path).write_bytes(content)


def _md5(path: Path) -> str | None:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None


def _checked_data(origin: Origin, out: Path) -> str:
    path = out / "data" / "prepared" / "dataset.json"
    digest = str(read_document(path)["digest"])
    if origin.data_digest and digest != origin.data_digest:
        raise MissingError(f"{path}: found the images {digest}, the run had {origin.data_digest}")
    return digest


def _checked_model(origin: Origin, out: Path) -> str:
    """Check the trained model, and put the registered one where the registration had it."""
    digest = model_digest(out / "data" / "model")
    if origin.model_digest and digest != origin.model_digest:
        raise MissingError(f"{out / 'data' / 'model'}: found the model {digest}, the run had {origin.model_digest}")
    if origin.version is None:
        return digest
    target = out / "data" / "registration" / "model"
    shutil.copytree(download(origin.version.uri), target)
    found = model_digest(target)
    if found != origin.version.digest:
        raise MissingError(f"{origin.version}: found the model {found}, wanted {origin.version.digest}")
    return f"{digest}, registered as {origin.version}"
