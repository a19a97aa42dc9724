"""`foundry doctor`: checks this installation, and prints a line for each finding: its state, what it is, what to type.

It changes nothing: no store is made or migrated, and nothing is fetched.
"""

import json
import os
import platform
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import torch
from packaging.requirements import Requirement

from pipeline.artefacts.sizes import GIB
from pipeline.commands.check_remotes import remote_problems
from pipeline.commands.cost import expected_images
from pipeline.cpus import num_cores
from pipeline.device import best_device
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.params import load_params
from pipeline.provenance.dvc import dvc
from pipeline.provenance.git import git, git_line, main_worktree
from pipeline.tracking import store
from pipeline.training import cost

CONSTRAINTS, NVIDIA_DRIVER = Path("constraints.txt"), Path("/proc/driver/nvidia/version")
DATA, RAW = Path("data"), Path("data/raw")
PORTS = {3000: "serve", 5000: "ui"}
CLOCK_TOLERANCE_SEC = 60.0
"""Largest difference between the clocks of two correctly set machines, seconds."""
MOST_NAMES = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check."""

    state: Literal["ok", "note", "WRONG"]
    """`note`: nothing is wrong, but it may explain a surprise."""
    text: str
    """If something is wrong, it ends with what to type."""


def main() -> None:
    """Run all checks and print their findings as they come.

    Raises:
        CheckFailedError: something is wrong.
    """
    wrong = []
    for subject, check in CHECKS.items():
        for finding in findings(check):
            sys.stdout.write(f"{finding.state:6}{subject:9}{finding.text}\n")
            sys.stdout.flush()
            wrong += [subject] if finding.state == "WRONG" else []
    if wrong:
        raise CheckFailedError(f"foundry doctor: wrong: {', '.join(dict.fromkeys(wrong))}")


def findings(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a check; an error that ends it is a finding too."""
    try:
        yield from check()
    except FoundryError as error:
        yield from (Finding("WRONG", line) for line in str(error).splitlines())


def python() -> Iterator[Finding]:
    yield Finding("ok", f"{platform.python_version()} in {sys.prefix}, on {platform.platform()}")
    own = main_worktree() / ".venv"
    if own.exists() and own.resolve() != Path(sys.prefix).resolve():
        yield Finding(
            "note", f"this is not the environment of the project: `{own / 'bin' / 'foundry'} doctor` looks at that"
        )


def packages() -> Iterator[Finding]:
    if not CONSTRAINTS.exists():
        return
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = [each for each in pins if each.marker is None or each.marker.evaluate()]
    installed = {each.name: found for each in pinned if (found := _installed(each.name))}
    # A build like 2.11.0+cpu fits too.
    other = [
        f"{each.name} {installed[each.name]} ({each.specifier})"
        for each in pinned
        if each.name in installed and not each.specifier.contains(installed[each.name].partition("+")[0])
    ]
    if other:
        more = f" and {len(other) - MOST_NAMES} more" if len(other) > MOST_NAMES else ""
        names = ", ".join(other[:MOST_NAMES])
        yield Finding("WRONG", f"not those of {CONSTRAINTS}: {names}{more}: `touch {CONSTRAINTS}; make install`")
    else:
        yield Finding("ok", f"{len(installed)} of {CONSTRAINTS}, in its versions")


def device() -> Iterator[Finding]:
    here = best_device()
    yield Finding("ok", f"{here.name}, {here.precision}, {num_cores()} cores, torch {torch.__version__}")
    if NVIDIA_DRIVER.exists() and not here.is_cuda:
        build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        remedy = "`nvidia-smi` shows the driver's version; `make clean install` takes the build for it"
        yield Finding(
            "WRONG", f"there is an NVIDIA driver, but this torch is built {build} and finds no card: {remedy}"
        )


def params() -> Iterator[Finding]:
    load_params()
    yield Finding("ok", "params.yaml is valid")


def memory() -> Iterator[Finding]:
    params = load_params()
    images = expected_images(params)
    cost.require_memory(params.train, params.distil, **images)
    held = cost.memory(params.train, params.distil, **images)
    yield Finding("ok", f"the training of params.yaml holds about {held.all_mib / 1024:.1f} GiB, which are free")


def disk() -> Iterator[Finding]:
    """A run writes data/ anew, and DVC keeps what was there before."""
    wanted = sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file() and RAW not in path.parents)
    usage = shutil.disk_usage(main_worktree())
    text = f"{usage.free / GIB:.1f} of {usage.total / GIB:.0f} GiB are free"
    if wanted:
        text += f"; a run writes about {max(wanted / GIB, 0.1):.1f} GiB"
    if usage.free < wanted + GIB:
        yield Finding("WRONG", f"{text}: `foundry gc` shows what can go")
    else:
        yield Finding("ok", text)
    if not os.access(Path.home(), os.W_OK):
        yield Finding("WRONG", f"{Path.home()} cannot be written, where packages keep their files: set HOME")


def repository() -> Iterator[Finding]:
    if git_line("rev-parse", "HEAD") is None:
        remedy = "`git init && git add -A && git commit -m 'A project'`"
        raise FoundryError(f"{Path.cwd()}: no git repository with a commit, by which runs name their code: {remedy}")
    branch, changed = git_line("symbolic-ref", "--quiet", "--short", "HEAD"), git("status", "--porcelain").splitlines()
    yield Finding("ok", f"{branch or 'no branch'}, {len(changed)} files differ from the commit")
    if branch is None:
        yield Finding("note", "HEAD is on no branch, as a killed `dvc exp run` leaves it: `git switch main` goes back")


def clock() -> Iterator[Finding]:
    now = datetime.now(UTC)
    newest = datetime.fromtimestamp(int(git_line("show", "--no-patch", "--format=%ct") or 0), UTC)
    if (newest - now).total_seconds() > CLOCK_TOLERANCE_SEC:
        remedy = "set it; S3 refuses a wrong one (`sudo timedatectl set-ntp true`)"
        yield Finding(
            "WRONG", f"{now:%Y-%m-%d %H:%M} UTC, but the newest commit is of {newest:%Y-%m-%d %H:%M}: {remedy}"
        )
    else:
        yield Finding("ok", f"{now:%Y-%m-%d %H:%M} UTC")


def stages() -> Iterator[Finding]:
    if not RAW.exists():
        ways = (
            "`make data` gets the demo's, `foundry adopt FOLDER` takes yours, `dvc pull data/raw` those of the remote"
        )
        yield Finding("note", f"no images in {RAW}: {ways}")
    stale = [stage for stage in json.loads(dvc("status", "--json")) if not stage.endswith(".dvc")]
    yield Finding("note", f"`dvc repro` would run {', '.join(stale)}") if stale else Finding("ok", "all are up to date")


def remote() -> Iterator[Finding]:
    name = dvc("config", "core.remote")
    if not name:
        yield Finding("note", "none: results are on this machine alone; `dvc remote add -d NAME URL` names one")
        return
    url = dvc("config", f"remote.{name}.url")
    if problems := list(remote_problems(url)):
        raise FoundryError("\n".join(problems))
    missing = json.loads(dvc("status", "--cloud", "--json"))
    if missing:
        yield Finding(
            "note", f"{url} lacks or has {len(missing)} outs that are not here: `dvc status --cloud` lists them"
        )
    else:
        yield Finding("ok", f"{url} has all of it")


def tracking() -> Iterator[Finding]:
    uri = store.tracking_uri()
    if uri.startswith("sqlite:"):
        yield _database(Path(uri.removeprefix("sqlite:///")))
    else:
        with store.answering():
            store.connect().search_experiments(max_results=1)
        yield Finding("ok", f"{uri} answers")
    home = main_worktree() / ".foundry"
    if waiting := len(list((home / "outbox").glob("[0-9]*"))):
        yield Finding(
            "note", f"outboxes that wait or belong to running stages: {waiting}; `foundry runs sync` sends them"
        )
    if refused := list((home / "refused").glob("*")):
        yield Finding("note", f"the server has refused entries; {refused[-1] / 'refused.jsonl'} has the reasons")


def ports() -> Iterator[Finding]:
    for port, target in PORTS.items():
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError as error:
                text = f"{port}: {error.strerror}, perhaps by a `make {target}`: `make {target} PORT={port + 1}` takes another"
                yield Finding("note", text)
            else:
                yield Finding("ok", f"{port} is free for `make {target}`")


def _database(path: Path) -> Finding:
    if not path.exists():
        return Finding("note", f"{path}: not there yet; the first run makes it")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            [(said,), *_] = connection.execute("PRAGMA quick_check")
    except sqlite3.Error as error:
        said = str(error)
    if said == "ok":
        return Finding("ok", f"{path} is whole")
    return Finding("WRONG", f"{path} is damaged ({said}): `sqlite3 {path} .recover` rescues what is readable")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": python,
    "packages": packages,
    "device": device,
    "params": params,
    "memory": memory,
    "disk": disk,
    "git": repository,
    "clock": clock,
    "stages": stages,
    "remote": remote,
    "tracking": tracking,
    "ports": ports,
}
"""The order in which they are printed: what others depend on comes first."""
