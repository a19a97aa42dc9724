"""What DVC knows a stage's outcome by: the digests of its dependencies and the values of its params.

A run has the key of what it is about to do; an entry of dvc.lock has the key of what was done. Equal keys: the run
made the outcome.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

KEY_TAG = "dvc.stage.key"


def key_of_entry(entry: Mapping[str, Any]) -> str:
    """Of a stage in dvc.lock."""
    deps = {str(dep["path"]): str(dep.get("md5", "")) for dep in entry.get("deps", [])}
    params = {name: value for file in entry.get("params", {}).values() for name, value in file.items()}
    return _digest(deps, params)


def key_of_running(stage: str) -> str | None:
    """Of the stage that DVC runs now, in the working folder; None outside of DVC, or where a file is missing."""
    if "DVC_STAGE" not in os.environ:
        return None
    try:
        definition = _read(Path("dvc.yaml"))["stages"][stage]
        tracked = dict(_tracked())
        deps = {path: tracked.get(path) or _md5(Path(path)) for path in definition.get("deps", [])}
        params = {name: _value(_read(Path("params.yaml")), name) for name in definition.get("params", [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None
    return _digest(deps, params)


def _digest(deps: Mapping[str, str], params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([deps, params], sort_keys=True).encode()).hexdigest()


def _tracked() -> Iterator[tuple[str, str]]:
    """Path and MD5 of what DVC has written or taken in; it notes each stage's outs before the next one starts."""
    for path in Path("data").glob("*.dvc"):
        for out in _read(path).get("outs", []):
            yield (path.parent / out["path"]).as_posix(), out["md5"]
    if Path("dvc.lock").is_file():
        for entry in _read(Path("dvc.lock"))["stages"].values():
            yield from ((out["path"], out["md5"]) for out in entry.get("outs", []))


def _md5(path: Path) -> str:
    # DVC names its content so.
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _value(params: Mapping[str, Any], name: str) -> Any:
    found: Any = params
    for part in name.split("."):
        found = found[part]
    return found


def _read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
