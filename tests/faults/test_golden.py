import hashlib
from pathlib import Path

import torch

from pipeline.artefacts.schedule_table import _schedule_columns
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.params import load_params
from pipeline.schedule import make_betas

ROOT = Path(__file__).parents[2]


def test_the_schedules_table_is_the_one_that_models_were_trained_on() -> None:
    columns = _schedule_columns(NoiseSchedule(make_betas(load_params(ROOT / "params.yaml").schedule)))
    # Nine digits: another machine's cosine may differ in the last bit.
    text = "\n".join(f"{name} " + " ".join(f"{value:.8e}" for value in columns[name].tolist()) for name in columns)
    assert all(torch.isfinite(column).all() for column in columns.values())
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "ef81d781f49246ef1b3efefe754b788842284fa0c0ea8237cc39dea355f62ba7"
    )
