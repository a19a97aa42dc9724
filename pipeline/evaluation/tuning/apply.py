"""The model to be registered: the trained model with the EMA length and the sampling that the evaluation chose."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.artefacts.files import read_document
from pipeline.artefacts.model import SNAPSHOTS, Description, Model, load_model, parse_timetables, save_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.tensors import load_tensors
from pipeline.diffusion.ema import Profile, gamma_of_width, reconstruct
from pipeline.errors import ArtefactError


def apply_tuning(model: Model, trained: Path, tuning: Path, out: Path) -> Model:
    """Write a model to `out` with the EMA length and the sampling of its evaluation, and load it from there.

    Args:
        model: the trained model.
        trained: its folder, with the snapshots of its weights.
        tuning: path of tuning.json; if there is no such file, the model is copied as it is.
        out: a folder, replaced if it exists.

    Raises:
        ArtefactError: a file is missing or does not fit.
    """
    description, weights = model.description, model.network.state_dict()
    if tuning.exists():
        document = read_document(tuning)
        description = _tuned(description, document, tuning)
        if document.get("ema_width") is not None:
            weights = average_weights(load_tensors(trained / SNAPSHOTS), document["ema_width"])
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_model(partial, description, weights=weights, schedule=model.schedule)
    tuned = load_model(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return tuned


def average_weights(snapshots: Mapping[str, Tensor], width: float) -> dict[str, Tensor]:
    """Reconstruct the EMA of this relative width from the snapshots of a training.

    Args:
        snapshots: tensors by `<step>/<width>/<weight>`.
        width: sigma_rel of the EMA, in (0, 0.28).
    """
    by_profile: dict[tuple[int, float], dict[str, Tensor]] = {}
    for name, tensor in snapshots.items():
        step, track, weight = name.split("/", 2)
        by_profile.setdefault((int(step), float(track)), {})[weight] = tensor
    profiles = [(Profile(step, gamma_of_width(track)), weights) for (step, track), weights in by_profile.items()]
    end = max(profile.end for profile, _ in profiles)
    return reconstruct(profiles, Profile(end, gamma_of_width(width)))


def _tuned(description: Description, tuning: Mapping[str, Any], path: Path) -> Description:
    """The description with the sampling and the timetables of a tuning, which was read from `path`."""
    timetables = {sampler: dict(by_steps) for sampler, by_steps in description.timetables.items()}
    try:
        for sampler, by_steps in parse_timetables(tuning.get("timetables", {})).items():
            timetables[sampler] = timetables.get(sampler, {}) | by_steps
        sampling = SamplingDefaults.of({**asdict(description.sampling), **tuning.get("sampling", {})})
    except (TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{path}: {error}") from None
    return replace(description, sampling=sampling, timetables=timetables)
