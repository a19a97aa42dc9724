"""A challenger against the champion: each draws and is judged in a process of its own, then both are timed in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from pipeline.artefacts.dataset import DatasetInfo
from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import WEIGHTS, Model, load_model
from pipeline.artefacts.tensors import load_tensors
from pipeline.errors import ArtefactError, FoundryError
from pipeline.evaluation.evaluator import NUM_SHIFTED, REFERENCE
from pipeline.evaluation.paired_kid import kid_difference
from pipeline.params import Params
from pipeline.registry.promotion import Comparison, Trial

NUM_TURNS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSetup:
    """What both are judged by: the prepared set and extractor of now, whatever either model was trained with."""

    prepared: Path
    features: Path
    params: Params

    def facts(self) -> dict[str, Any]:
        """What decision.json says of it."""
        return {
            "data_digest": DatasetInfo.read(self.prepared / "dataset.json").digest,
            "extractor_digest": read_document(self.features / "extractor.json")["digest"],
            "num_images": self.params.evaluate.num_samples,
            "seed": self.params.evaluate.seed,
        }


def contest(challenger: Path, champion: Path, arena: EvaluationSetup, out: Path) -> Comparison:
    """Compare two model folders; leaves `out`/challenger and `out`/champion with figures and pictures of both.

    Raises:
        ArtefactError: the challenger was not trained on the prepared set.
        FoundryError: a model cannot be drawn from or judged.

    """
    models = [load_model(folder) for folder in (challenger, champion)]
    _check_data(models[0], challenger, arena)
    with ExitStack() as stack:
        # One after the other: each has the machine for itself.
        processes = [
            stack.enter_context(TrialProcess(folder, arena, out / name))
            for folder, name in ((challenger, "challenger"), (champion, "champion"))
        ]
        turns = _time_in_turns(processes)
    return _comparison(models, processes, turns, arena)


class TrialProcess:
    """`foundry trial`: when this is made it has drawn and judged, and waits to be timed."""

    def __init__(self, model: Path, arena: EvaluationSetup, out: Path) -> None:
        self.model, self.out = model, out
        folders = {"model": model, "prepared": arena.prepared, "features": arena.features, "out": out}
        options = [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]
        self._process = subprocess.Popen(  # noqa: S603  # the words are ours
            [sys.executable, "-m", "pipeline", "trial", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        try:
            self.peak_memory_mib = self._answer("peak_memory_mib")
            self._answer("judged")
        except BaseException:
            self._end(now=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(now=kind is not None)

    def _end(self, *, now: bool) -> None:
        if now:
            self._process.kill()
        # Closes its standard input, which is how it knows that it is done.
        self._process.communicate()

    def seconds_for_a_batch(self) -> float:
        """Let it draw one batch now."""
        # Where it has died, reading tells.
        with suppress(BrokenPipeError):
            asking = cast("IO[str]", self._process.stdin)
            asking.write("\n")
            asking.flush()
        return self._answer("seconds")

    def _answer(self, key: str) -> float:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise FoundryError(f"{self.model}: its trial ended with exit code {self._process.wait()}, as said above")
        return float(json.loads(line)[key])


def _check_data(challenger: Model, folder: Path, arena: EvaluationSetup) -> None:
    trained, prepared = challenger.description.provenance.get("data_digest"), arena.facts()["data_digest"]
    if trained != prepared:
        raise ArtefactError(
            f"{folder}: was trained on the images {trained}, {arena.prepared} holds {prepared}: run `dvc repro` first"
        )


def _time_in_turns(processes: Sequence[TrialProcess]) -> list[tuple[float, float]]:
    """Seconds for a batch of challenger and champion, side by side in time; who goes first changes each turn."""
    one, other = processes
    for process in processes:
        process.seconds_for_a_batch()  # the first is slower
    turns = []
    for turn in range(NUM_TURNS):
        first, second = (one, other) if turn % 2 else (other, one)
        seconds = {first: first.seconds_for_a_batch(), second: second.seconds_for_a_batch()}
        turns.append((seconds[one], seconds[other]))
    return turns


def _comparison(
    models: Sequence[Model],
    processes: Sequence[TrialProcess],
    turns: Sequence[tuple[float, float]],
    arena: EvaluationSetup,
) -> Comparison:
    params, floors = arena.params, read_document(arena.features / "floors.json")
    ours, theirs = (load_tensors(process.out / "features.safetensors")["features"] for process in processes)
    difference = kid_difference(
        ours,
        theirs,
        load_tensors(arena.features / REFERENCE)["held_out"],
        confidence=params.register_.confidence,
        seed=params.evaluate.seed,
    )
    trials = [
        _trial(model, process, [turn[place] for turn in turns])
        for place, (model, process) in enumerate(zip(models, processes, strict=True))
    ]
    digests = [model.description.provenance.get("data_digest") for model in models]
    return Comparison(
        challenger=trials[0],
        champion=trials[1],
        kid_difference=difference.value,
        kid_low=difference.low,
        kid_high=difference.high,
        latency_ratio=statistics.median(one / other for one, other in turns),
        data_is_new=digests[0] != digests[1],
        floor_error=floors["floor/kid_standard_error"],
    )


def _trial(model: Model, process: TrialProcess, seconds: Sequence[float]) -> Trial:
    figures = read_document(process.out / "figures.json")
    return Trial(
        figures=figures,
        num_shifted=min(NUM_SHIFTED, int(figures["num_images"])),
        classes=model.description.data.class_names or (),
        model_bytes=(process.model / WEIGHTS).stat().st_size,
        batch_ms=1000 * statistics.median(seconds),
        peak_memory_mib=process.peak_memory_mib,
    )
