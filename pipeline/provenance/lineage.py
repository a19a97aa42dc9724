"""Facts that every run gets as tags: commit, uncommitted changes, DVC's lock, data, machine, library versions."""

import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from pipeline.provenance.dvc import LOCK, md5, parse_yaml, read_yaml
from pipeline.provenance.git import GitError, git, git_line

COMMIT_TAG, LOCK_TAG, EXPERIMENT_TAG, RAW_DATA_TAG = "git.commit", "dvc.lock.md5", "dvc.exp.name", "data.md5"
LIBRARIES = ("torch", "numpy", "pandas", "dvc", "mlflow")
PARAMS = "params.yaml"
DIFF_OPTIONS = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
MAX_BYTES_OF_NEW_FILES = 10 << 20
"""Untracked files beyond this total are named in the patch, not copied into it."""
OMITTED = "# a new file, not in this patch: "
"""Beginning of a patch's line that names such a file."""
MAX_PARAM_LENGTH = 6000
"""MLflow's limit on the length of a parameter's value."""


def facts() -> dict[str, str]:
    """The tags of a run that starts now; facts that cannot be determined are omitted."""
    commit, branch = git_line("rev-parse", "HEAD"), git_line("symbolic-ref", "--short", "HEAD")
    found: dict[str, str | None] = {
        COMMIT_TAG: commit,
        "git.branch": branch,
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": branch,
        LOCK_TAG: md5(Path(LOCK).read_bytes()) if Path(LOCK).is_file() else None,
        EXPERIMENT_TAG: os.environ.get("DVC_EXP_NAME"),
        "dvc.exp.baseline_rev": os.environ.get("DVC_EXP_BASELINE_REV"),
        RAW_DATA_TAG: (read_yaml(Path("data/raw.dvc")).get("outs") or [{}])[0].get("md5"),
        "machine.cpus": str(os.cpu_count()),
        "machine.platform": platform.platform(),
        "version.python": platform.python_version(),
        **{f"version.{name}": importlib.metadata.version(name) for name in LIBRARIES},
        "mlflow.user": psutil.Process().username(),
        "mlflow.source.type": "LOCAL",
    }
    return {key: value for key, value in found.items() if value}


def uncommitted() -> str:
    """A patch from the commit to the working tree, with untracked files and without what DVC writes; may be empty."""
    try:
        with TemporaryDirectory() as folder:
            # An index of our own takes new files in. It also knows no file times, by which a changed file could pass as
            # unchanged: in the index that DVC leaves in an experiment's folder one does if a param kept its length.
            index = Path(folder) / "index"
            git("read-tree", "HEAD", index=index)
            included, omitted = _new_files(index)
            git("add", "--intent-to-add", "--", *(f":(literal){path}" for path in included), index=index)
            excluded = [f":(exclude,literal){path}" for path in _dvc_outs()]
            patch = git("diff", *DIFF_OPTIONS, "HEAD", "--", ".", *excluded, index=index)
    except GitError:
        return ""
    return "".join([patch, *(f"{OMITTED}{path}, {num_bytes} bytes\n" for path, num_bytes in omitted)])


def all_params() -> dict[str, Any]:
    """params.yaml of the working folder."""
    return read_yaml(Path(PARAMS))


def changed_params() -> dict[str, str]:
    """Dotted names and texts of the params that differ from the commit's; empty outside of git."""
    committed = git_line("show", f"HEAD:./{PARAMS}")
    before = dict(flat_params(parse_yaml(committed))) if committed else {}
    return {key: text for key, text in flat_params(all_params()) if before and before.get(key) != text}


def params_digest(params: Mapping[str, Any]) -> str:
    """SHA-256 of the content of params.yaml, whatever its layout."""
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()


def flat_params(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of params, as MLflow stores them."""
    for key, value in params.items():
        if isinstance(value, dict):
            yield from flat_params(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", (value if isinstance(value, str) else json.dumps(value))[:MAX_PARAM_LENGTH]


def data_digest() -> str | None:
    """The digest of the prepared images, if there are any."""
    digest: str | None = read_yaml(Path("data/prepared/dataset.json")).get("digest")
    return digest


def _dvc_outs() -> Iterator[str]:
    """The paths of dvc.lock and of the outs that it lists, which are results of a run and not causes."""
    yield LOCK
    for stage in read_yaml(Path(LOCK)).get("stages", {}).values():
        yield from (out["path"] for out in stage.get("outs", []))


def _new_files(index: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Files that git neither tracks nor ignores: those that fit into a patch, and the others with their sizes."""
    listed = git("ls-files", "--others", "--exclude-standard", "-z", index=index).split("\0")
    outs = tuple(_dvc_outs())
    sizes = [(path, Path(path).lstat().st_size) for path in listed if path and not path.startswith(outs)]
    totals = itertools.accumulate(num_bytes for _, num_bytes in sizes)
    fits = [total <= MAX_BYTES_OF_NEW_FILES for total in totals]
    included = [path for (path, _), fit in zip(sizes, fits, strict=True) if fit]
    return included, [entry for entry, fit in zip(sizes, fits, strict=True) if not fit]
