"""Compare a challenger with the champion: each is evaluated in a process of its own, then both are timed in turns."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Self

from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import WEIGHTS, Model, default_plan, load_model
from pipeline.artefacts.tensors import load_tensors
from pipeline.errors import ArtefactError
from pipeline.evaluation.evaluator import NUM_SHIFTED, REFERENCE
from pipeline.evaluation.paired_kid import kid_difference
from pipeline.registry.gate.comparison_result import ClassAgreement, ComparisonResult, ModelResult
from pipeline.registry.gate.evaluation_process import EvaluationProcess
from pipeline.registry.gate.evaluation_setup import EvaluationSetup
from pipeline.registry.gate.kid_difference import (
    MAX_TRAININGS,
    PRIOR,
    KidDifference,
    SameSeeds,
    SeedSpread,
    compare_recipes,
)
from pipeline.registry.gate.promotion import margin
from pipeline.registry.gate.work import Ratio, work_of

NUM_TURNS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A model folder and its content."""

    folder: Path
    model: Model

    @property
    def image_format(self) -> str:
        """Size and channels of its images, in words."""
        channels, height, width = self.model.description.data.shape
        return f"{width}x{height} pixels, channels: {channels}"

    @property
    def timed_facts(self) -> tuple[object, ...]:
        """All that the time of a batch depends on: where it is equal, no clock is needed to compare two models."""
        description, sampling = self.model.description, self.model.description.sampling
        guided = (default_plan(self.model).guidance != 1).tolist()
        return description.network, description.data.shape, description.data.num_classes, sampling.sampler, *guided

    @property
    def seed(self) -> str:
        """Seed of its training; empty for a model of an earlier release."""
        return str(self.model.description.provenance.get("seed", ""))

    @property
    def data_digest(self) -> str | None:
        """Digest of the data set that it was trained on, if known."""
        digest: str | None = self.model.description.provenance.get("data_digest")
        return digest


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherTrainings:
    """Models of the same recipes as the two that are compared, trained with other seeds."""

    challengers: Sequence[LoadedModel] = ()
    champions: Sequence[LoadedModel] = ()
    num_challengers: int = 0
    """Number of registered trainings of the challenger's recipe, of which the newest are compared."""
    is_one_recipe: bool = False
    """Challenger and champion differ in nothing but their seed."""
    spread: SeedSpread = PRIOR
    """Standard deviation of KID over training seeds."""


NO_OTHERS = OtherTrainings()


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion(LoadedModel):
    """The champion, downloaded from the registry."""

    version: str
    metrics: Mapping[str, float]
    """Metrics with which the version was registered, on the data of that time."""

    @classmethod
    def load(cls, folder: Path, version: str, metrics: Mapping[str, float]) -> Self:
        return cls(folder=folder, model=load_model(folder), version=version, metrics=metrics)


def compare(
    challenger: LoadedModel,
    champion: Champion | None,
    setup: EvaluationSetup,
    out: Path,
    others: OtherTrainings = NO_OTHERS,
) -> ComparisonResult | None:
    """Compare a challenger with the champion; their figures and samples stay in `out`/challenger and `out`/champion.

    Other trainings of both recipes are drawn and measured too, but not timed; theirs are in `out`/challenger-2 and so on.

    Returns None if there is no champion, or if its images have another size or other channels.

    Raises:
        ArtefactError: the challenger was not trained on the data set of `setup`.
        FoundryError: a model cannot be sampled or measured.
    """
    if champion is None or champion.image_format != challenger.image_format:
        return None
    _check_data(challenger, setup)
    models: dict[str, LoadedModel] = {"challenger": challenger, "champion": champion}
    with ExitStack() as stack:
        # One after the other: each has the machine to itself.
        processes = [
            stack.enter_context(EvaluationProcess(each.folder, setup, out / name)) for name, each in models.items()
        ]
        turns = [] if challenger.timed_facts == champion.timed_facts else _time_in_turns(processes)
    seconds = list(zip(*turns, strict=True)) or [(), ()]
    results = [_result(*each) for each in zip(models.values(), processes, seconds, strict=True)]
    ours = _measure("challenger", [challenger, *others.challengers], setup, out)
    theirs = _measure("champion", [champion, *others.champions], setup, out)
    return ComparisonResult(
        challenger=results[0],
        champion=results[1],
        champion_before=champion.metrics,
        kid=_kid_difference(ours, theirs, setup, others.spread),
        num_trainings=1 + others.num_challengers,
        is_one_recipe=others.is_one_recipe,
        latency=ratio([one / other for one, other in turns]) if turns else None,
        data_is_new=challenger.data_digest != champion.data_digest,
        floor_error=read_document(setup.features / "floors.json")["floor/kid_standard_error"],
    )


def _measure(name: str, models: Sequence[LoadedModel], setup: EvaluationSetup, out: Path) -> dict[str, Path]:
    """Draw and measure all trainings but the first, which is measured already; returns their folders by seed."""
    folders = [out / name, *(out / f"{name}-{number}" for number in range(2, 1 + len(models)))]
    for model, folder in zip(models[1:], folders[1:], strict=True):
        with EvaluationProcess(model.folder, setup, folder):
            pass
    # Of two with one seed, as another number of processes makes them, the first.
    return {model.seed: folder for model, folder in reversed(list(zip(models, folders, strict=True)))}


def _kid_difference(
    ours: Mapping[str, Path], theirs: Mapping[str, Path], setup: EvaluationSetup, spread: SeedSpread
) -> KidDifference:
    """Compare each training of one recipe with each of the other, or with that of the same seed, by features of their samples."""
    reference, params = load_tensors(setup.features / REFERENCE)["held_out"], setup.params.register_
    features = [
        {seed: load_tensors(folder / "features.safetensors")["features"] for seed, folder in side.items()}
        for side in (ours, theirs)
    ]
    compare_images = partial(
        kid_difference,
        reference=reference,
        confidence=1 - 2 * params.max_false_promotion,
        seed=setup.params.evaluate.seed,
    )
    shared = [(features[0][seed], features[1][seed]) for seed in ours if seed in theirs]
    same_seeds = SameSeeds.measure(shared, reference) if len(shared) >= MAX_TRAININGS else None
    pairs = {
        (one, other): compare_images(features[0][one], features[1][other])
        for one, other in product(ours, theirs)
        if one == other or same_seeds is None
    }
    kids = [read_document(folder / "figures.json")["kid"] for folder in theirs.values()]
    return compare_recipes(pairs, kids, spread, params, same_seeds)


def as_document(comparison: ComparisonResult, setup: EvaluationSetup) -> dict[str, Any]:
    """The field `comparison` of decision.json."""
    params = setup.params.register_
    models = {"challenger": comparison.challenger, "champion": comparison.champion}
    return {
        **setup.facts(),
        "data_is_new": comparison.data_is_new,
        "kid_difference": {**asdict(comparison.kid), "margin": margin(comparison, params)},
        **{
            name: {
                "classes": list(each.classes),
                "class_agreement": {label: agreement.samples for label, agreement in each.class_agreement.items()},
                "figures": dict(each.figures),
                "model_bytes": each.model_bytes,
                **asdict(each.work),
            }
            for name, each in models.items()
        },
        "measured": {
            "latency_ratio": asdict(comparison.latency) if comparison.latency else None,
            **{
                name: {"batch_ms": each.batch_ms, "peak_memory_mib": each.peak_memory_mib}
                for name, each in models.items()
            },
        },
    }


def _check_data(challenger: LoadedModel, setup: EvaluationSetup) -> None:
    trained, prepared = challenger.data_digest, setup.facts()["data_digest"]
    if trained != prepared:
        raise ArtefactError(
            f"{challenger.folder}: trained on the images {trained}, but {setup.prepared} holds {prepared}: "
            "run `dvc repro` first"
        )


def _time_in_turns(processes: Sequence[EvaluationProcess]) -> list[tuple[float, float]]:
    """Seconds for one batch of challenger and champion, one pair per turn; who goes first alternates."""
    challenger, champion = processes
    for process in processes:
        process.time_batch()  # the first is slower
    turns = []
    for turn in range(NUM_TURNS):
        first, second = (challenger, champion) if turn % 2 else (champion, challenger)
        seconds = {first: first.time_batch(), second: second.time_batch()}
        turns.append((seconds[challenger], seconds[champion]))
    return turns


def ratio(turns: Sequence[float]) -> Ratio:
    """The median of the ratios of at least six turns, and its interval.

    The interval is that of the sign test: from the second smallest to the second largest, which miss the median of nine
    with the probability 20 / 512 = 3.9 %.
    """
    ordered = sorted(turns)
    return Ratio(value=statistics.median(ordered), low=ordered[1], high=ordered[-2])


def _result(model: LoadedModel, process: EvaluationProcess, seconds: Sequence[float]) -> ModelResult:
    figures, agreement = (read_document(process.out / name) for name in ("figures.json", "class_agreement.json"))
    return ModelResult(
        figures=figures,
        num_shifted=min(NUM_SHIFTED, int(figures["num_images"])),
        classes=model.model.description.data.class_names or (),
        class_agreement={name: ClassAgreement(**each) for name, each in agreement.items()},
        model_bytes=(model.folder / WEIGHTS).stat().st_size,
        work=work_of(model.model),
        batch_ms=1000 * statistics.median(seconds) if seconds else None,
        peak_memory_mib=process.peak_memory_mib,
    )
