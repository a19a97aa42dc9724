"""Checks that a killed training loses nothing: trains twice, once killed at random moments, and compares every byte.

Reads: data/prepared, data/schedule, data/ancestor
Params: train, ancestor and distil, with fewer images and grids

Both trainings run in temporary folders; the project is not changed.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from pipeline.artefacts.files import file_digest
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.params import load_params

ROOT = Path(__file__).parents[2]
CHECKPOINT_INTERVAL_SEC, POLL_INTERVAL_SEC = 0.2, 0.01


def main(prepared: Path, schedule: Path, ancestor: Path, *, num_images: int, num_kills: int, seed: int | None) -> None:
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    moments = kill_moments(num_images, num_kills, seed)
    sys.stderr.write(f"moments of the kills: --seed {seed}\n")
    with TemporaryDirectory(prefix="foundry-verify-") as folder:
        digests = {}
        for name, kills in (("whole", []), ("killed", moments)):
            training = IsolatedTraining(Path(folder) / name, prepared, schedule, ancestor, num_images)
            training.run(kills)
            digests[name] = training.digests()
    sys.stdout.write("".join(f"{line}\n" for line in table(**digests)))
    if others := different(**digests):
        raise CheckFailedError(f"the killed training wrote other bytes: {', '.join(others)}")


def kill_moments(num_images: int, num_kills: int, seed: int) -> list[int]:
    """Numbers of images after which the training is killed, between 5 and 90 % of it."""
    draw = random.Random(seed)  # noqa: S311  # not for cryptography
    return sorted(draw.randint(num_images // 20, num_images * 9 // 10) for _ in range(num_kills))


class IsolatedTraining:
    """A training in a folder of its own, with the project's params but for its length and a single sample grid."""

    def __init__(self, folder: Path, prepared: Path, schedule: Path, ancestor: Path, num_images: int) -> None:
        folder.mkdir()
        self._folder, self._out = folder, folder / "model"
        folders = {"--prepared": prepared, "--schedule": schedule, "--ancestor": ancestor}
        inputs = [word for name, path in folders.items() for word in (name, str(path.resolve()))]
        options = ["--out", str(self._out), "--checkpoint-interval-sec", str(CHECKPOINT_INTERVAL_SEC)]
        self._command = [sys.executable, "-m", "pipeline.train", *inputs, *options]
        params = load_params()
        train = params.train.model_copy(update={"num_images": num_images, "num_grids": 1})
        distil = params.distil.model_copy(update={"num_images": num_images})
        whole = params.ancestor.model_copy(update={"train_share": 1.0})
        shorter = params.model_copy(update={"train": train, "distil": distil, "ancestor": whole})
        document = shorter.model_dump(mode="json", by_alias=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    def run(self, moments: list[int]) -> None:
        """Train to the end; kill (SIGKILL) and start it again after each number of images in `moments`.

        Raises:
            FoundryError: the training fails, or ends before it is killed.
        """
        for number, moment in enumerate(moments, start=1):
            process = self._start()
            while process.poll() is None and self._num_images_saved() < moment:
                time.sleep(POLL_INTERVAL_SEC)
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                raise FoundryError(f"the training ended before kill {number}: {self._log_tail()}")
            sys.stderr.write(f"killed after {self._num_images_saved()} images, {number} of {len(moments)}\n")
        if self._start().wait():
            raise FoundryError(f"the training failed: {self._log_tail()}")

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file of the model folder."""
        paths = sorted(path for path in self._out.rglob("*") if path.is_file())
        return {path.relative_to(self._out).as_posix(): file_digest(path) for path in paths}

    def _start(self) -> subprocess.Popen[bytes]:
        # With a folder of its own for checkpoints and a tracking store of its own.
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
        environment = clean | {"PYTHONPATH": str(ROOT)}
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen(self._command, cwd=self._folder, env=environment, stderr=log)  # noqa: S603

    def _num_images_saved(self) -> int:
        names = (path.name for path in (self._folder / ".foundry" / "training").glob("*/[0-9]*-*.safetensors"))
        return max((int(name.split("-")[0]) for name in names), default=0)

    def _log_tail(self) -> str:
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip()[-1000:]


def table(whole: Mapping[str, str], killed: Mapping[str, str]) -> Iterator[str]:
    """One line per file: the first digits of both digests, and whether they are equal."""
    yield f"{'file':<24} {'not killed':<16} {'killed':<16}"
    others = different(whole, killed)
    for name in sorted(whole.keys() | killed.keys()):
        found = [digests.get(name, "missing")[:16] for digests in (whole, killed)]
        yield f"{name:<24} {found[0]:<16} {found[1]:<16} {'DIFFERENT' if name in others else 'equal'}"


def different(whole: Mapping[str, str], killed: Mapping[str, str]) -> list[str]:
    """The names of the files that differ, or that only one of the trainings has written."""
    return sorted({name for name, _ in whole.items() ^ killed.items()})
