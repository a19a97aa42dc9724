"""Keys of stage results: a digest of what DVC identifies a result by, its dependencies and params.

A run gets the key of what it is about to do; an entry of dvc.lock has the key of what was done. If they are equal, the
run made the result.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import reduce
from graphlib import TopologicalSorter
from operator import getitem
from pathlib import Path
from typing import Any

from pipeline.provenance.dvc import LOCK, md5_of, parse_yaml, stages_of


def keys_of(lock: str) -> dict[str, str]:
    """The key of each stage of a dvc.lock, in the order in which the stages run."""
    stages = stages_of(lock)
    makers = {out["path"]: stage for stage, entry in stages.items() for out in entry.get("outs", [])}
    graph = {
        stage: [makers[dep["path"]] for dep in entry.get("deps", []) if dep["path"] in makers]
        for stage, entry in stages.items()
    }
    keys = {}
    for stage in TopologicalSorter(graph).static_order():
        deps = {str(dep["path"]): str(dep.get("md5", "")) for dep in stages[stage].get("deps", [])}
        files = stages[stage].get("params", {}).values()
        keys[stage] = _digest(deps, {name: value for values in files for name, value in values.items()})
    return keys


def key_of_running(stage: str) -> str | None:
    """The key of the stage that DVC runs now in the working folder; None outside of DVC or if a file is missing."""
    if "DVC_STAGE" not in os.environ:
        return None
    try:
        definition = _read(Path("dvc.yaml"))["stages"][stage]
        tracked = dict(_tracked())
        deps = {path: tracked.get(path) or md5_of(Path(path)) for path in definition.get("deps", [])}
        values = _read(Path("params.yaml"))
        params = {name: reduce(getitem, name.split("."), values) for name in definition.get("params", [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return _digest(deps, params)


def _digest(deps: Mapping[str, str], params: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([deps, params], sort_keys=True).encode()).hexdigest()


def _tracked() -> Iterator[tuple[str, str]]:
    """Path and MD5 of all that DVC has written or imported; it records the outs of a stage before the next one starts."""
    for path in Path("data").glob("*.dvc"):
        for out in _read(path).get("outs", []):
            yield (path.parent / out["path"]).as_posix(), out["md5"]
    if Path(LOCK).is_file():
        for entry in _read(Path(LOCK))["stages"].values():
            yield from ((out["path"], out["md5"]) for out in entry.get("outs", []))


def _read(path: Path) -> dict[str, Any]:
    return parse_yaml(path.read_text(encoding="utf-8"))
