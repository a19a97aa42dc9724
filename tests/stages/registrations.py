"""Small models and evaluations, registered under one name."""

import json
from pathlib import Path
from typing import Any

from pipeline.artefacts.model import DataSpec, Description, build_network, save_model
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.evaluation.results import write_results
from pipeline.params import load_params
from pipeline.register import register
from pipeline.registry.gate import promotion
from pipeline.registry.gate.evaluation_setup import EvaluationSetup
from pipeline.tracking import store
from tests.small_sets import BETTER_THAN_BASELINES, SMALL_NETWORK

NAME = "tiny"
NOWHERE = EvaluationSetup(
    prepared=Path("none"), features=Path("none"), params=load_params(Path(__file__).parents[1] / "params.yaml")
)
"""For a first champion, which is compared with none."""


def write_model(folder: Path, seed: int = 0, class_names: tuple[str, ...] | None = ("cat", "dog")) -> Path:
    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=class_names, sigma_data=0.5),
        network=SMALL_NETWORK,
        target="v",
        sampling=DEFAULT_SAMPLING,
        timetables={"ddim": {"2": (9, 4)}},
        provenance={"data_digest": "d1g3st"},
    )
    weights = build_network(description, seed=seed).state_dict()
    save_model(folder, description, weights=weights, schedule=NoiseSchedule(cosine_betas(25)))
    return folder


def write_evaluation(folder: Path, kid: float, tuning: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    write_results(folder, {**BETTER_THAN_BASELINES, promotion.KID: kid, "evaluate/recall": 0.5})
    if tuning is not None:
        (folder / "tuning.json").write_text(json.dumps(tuning))
    return folder


def registered(seed: int, kid: float, out: str = "registration") -> str:
    """Write a model and an evaluation with this KID, and register it."""
    folder = Path(f"model-{seed}")
    return register(NAME, write_model(folder, seed), write_evaluation(Path("evaluation"), kid), Path(out), NOWHERE)


def decision(out: str = "registration") -> Any:
    return json.loads(Path(out, "decision.json").read_text())


def versions() -> dict[str, Any]:
    found = store.connect().search_model_versions(f"name = '{NAME}'")
    return {str(version.version): version for version in found}
