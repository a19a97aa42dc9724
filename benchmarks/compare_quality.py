"""Whether later commits train better: an earlier commit's images beside ours after a share of its training time.

    python -m benchmarks.compare_quality BASE [--minutes 3] [--share 0.5] [--seeds 0 1 2] [--out FILE] [--scratch FOLDER]

BASE trains and draws with its own code and params.yaml, in a worktree and this environment, on the same prepared data; ours
is the working tree. The time is that of the whole training command on all cores. Each draws with its own sampler and with the
guidance of its own choice that brings its images nearest to training images; all are judged by the present features. With the
same --out a stopped run continues.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import stats

from benchmarks.protocol import ROOT, checked_out, finish, parser, python, run_command, table
from benchmarks.systems import ArmSamples, OurArm, Workspace, read_workspace
from benchmarks.time_to_quality import QUICK_MINUTES, EqualTimeComparison, Task, document_of
from pipeline import cli
from pipeline.evaluation.evaluator import load_evaluator
from pipeline.evaluation.metrics import frechet_distance
from pipeline.params import EvaluateParams
from pipeline.reporting.run_comparison import mean_of

MINUTES, SHARE = 3.0, 0.5


@dataclass(frozen=True)
class CommitArm(OurArm):
    """Another commit, whose `python -m pipeline train` and `sample` take the options that they have had since release 0.2."""

    checkout: Path = ROOT

    def params(self, workspace: Workspace) -> dict[str, Any]:  # noqa: ARG002  # its own, whatever the workspace's are
        """Return its own params.yaml."""
        document: dict[str, Any] = yaml.safe_load((self.checkout / "params.yaml").read_text(encoding="utf-8"))
        return document

    def environment(self, workspace: Workspace) -> dict[str, str]:
        """Return what finds its own code."""
        return workspace.environment | {"PYTHONPATH": str(self.checkout)}

    def draw(self, workspace: Workspace, out: Path, params: EvaluateParams) -> ArmSamples:
        """Draw with the scale of its params.yaml whose images are nearest to training images."""
        evaluator = load_evaluator(workspace.data / "features", workspace.dataset, "train")
        distances: dict[float, float] = {}
        for scale in self.params(workspace)["evaluate"]["guidance_scales"]:
            # Other seeds than those of the images that are judged.
            images, _ = self._sample(workspace, out, params.guidance_images, params.seed + 1, scale)
            distances[scale] = frechet_distance(evaluator.extractor.features(images), evaluator.reference)
            if distances[scale] > min(distances.values()):
                break
        best = min(distances, key=lambda scale: distances[scale])
        return ArmSamples(*self._sample(workspace, out, params.num_samples, params.seed, best), best)

    def _sample(
        self, workspace: Workspace, out: Path, num_images: int, seed: int, guidance_scale: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        model, file = out.absolute() / "model", out.absolute() / "samples.npz"
        options = ["--model", model, "--num-images", num_images, "--seed", seed, "--guidance-scale", guidance_scale]
        command = python("-m", "pipeline", "sample", *map(str, options), "--out", str(file))
        run_command(command, folder=out / "project", environment=self.environment(workspace))
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["images"], arrays["labels"]


def main() -> None:
    arguments = _parser().parse_args()
    with TemporaryDirectory(prefix="foundry-") as temporary, checked_out(ROOT, arguments.base) as checkout:
        workspace = read_workspace(arguments.data, arguments.scratch or Path(temporary))
        workspace.scratch.mkdir(parents=True, exist_ok=True)
        base = CommitArm(arguments.base, arguments.base, checkout=checkout)
        arms = {base.name: base, "ours": OurArm()}
        document = document_of(arguments, workspace.params, arms)
        EqualTimeComparison(workspace, arms, document, arguments.out).run(tasks(arguments))
    finish(arguments, document, report(document["results"]))


def _parser() -> argparse.ArgumentParser:
    made = parser("compare_quality", __doc__)
    made.add_argument("base", metavar="BASE", help="commit to compare with, 0.2 or later")
    made.add_argument("--minutes", type=float, default=MINUTES, help="BASE's training (default: %(default)g)")
    made.add_argument("--share", type=float, default=SHARE, help="ours, as a share of that (default: %(default)g)")
    made.add_argument("--num-samples", type=int, default=2000, help="default: %(default)s")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training per seed and arm")
    made.add_argument("--data", type=Path, default=Path("data"), help="folder with prepared, schedule and features")
    made.add_argument("--scratch", type=Path, metavar="FOLDER", help="keep the trainings here (default: keep none)")
    return made


def tasks(arguments: argparse.Namespace) -> list[Task]:
    """List the trainings in rounds, both arms in each."""
    minutes = QUICK_MINUTES if arguments.quick else arguments.minutes
    lengths = {arguments.base: minutes, "ours": arguments.share * minutes}
    return [Task(arm, length, seed) for seed in arguments.seeds for arm, length in lengths.items()]


def report(results: Iterable[dict[str, Any]]) -> str:
    """Return the table of docs/benchmarks.md, and what is known of the difference."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        found.setdefault(result["arm"], []).append(result)
    columns = [
        "arm",
        "minutes",
        "images seen",
        "time, s",
        "guidance",
        "Frechet distance by seed",
        "mean",
        "95 % interval",
    ]
    text = table(columns, (_row(arm, group) for arm, group in found.items()))
    base, ours = ([result["frechet_distance"] for result in group] for group in found.values())
    if len(base) < 2:
        return text
    # Welch's t interval: trainings differ more or less from seed to seed in either arm.
    low, high = stats.ttest_ind(ours, base, equal_var=False).confidence_interval(0.95)
    return f"{text}\nours - base: {np.mean(ours) - np.mean(base):+.3g} ({low:+.3g} to {high:+.3g})\n"


def _row(arm: str, group: list[dict[str, Any]]) -> list[object]:
    def listed(key: str, spec: str) -> str:
        return ", ".join(format(result[key], spec) for result in group)

    distances = [result["frechet_distance"] for result in group]
    mean = mean_of(distances) if len(distances) > 1 else None
    interval = None if mean is None else f"{mean.low:.3g} to {mean.high:.3g}"
    seen, seconds = (float(np.mean([result[key] for result in group])) for key in ("num_images", "seconds"))
    cells = [arm, group[0]["minutes"], f"{seen:,.0f}", seconds, listed("guidance_scale", "g")]
    return [*cells, listed("frechet_distance", ".3f"), float(np.mean(distances)), interval]


if __name__ == "__main__":
    cli.run(main)
