from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.timetables import OPTIMISED, grids_of, report, with_timetables, write_figure
from pipeline.artefacts.model import load_model, plan_for
from pipeline.diffusion.timetables import optimise_each


def test_the_models_own_times_stay_and_missing_ones_are_computed(small_model: Path) -> None:
    model = with_timetables(load_model(small_model), {"ddim": {"3": [49, 20, 5]}})
    eigenvalues = torch.linspace(0.5, 0.01, 64, dtype=torch.float64)
    grids = grids_of(model, "ddim", [3, 5], eigenvalues)
    assert grids[OPTIMISED][3] == (49, 20, 5)
    assert grids[OPTIMISED][5] == next(optimise_each("ddim", [5], model.schedule, eigenvalues))
    assert set(grids) == {"uniform", "trailing", "log_snr", "karras", OPTIMISED}


def test_a_model_with_timetables_is_sampled_at_these_times(small_model: Path) -> None:
    model = load_model(small_model)
    found = with_timetables(model, {"dpmpp_2m": {"3": [49, 30, 2]}})
    assert plan_for(found, "dpmpp_2m", 3).times.tolist() == [49, 30, 2]
    assert replace(found.description, timetables={}) == replace(model.description, timetables={})


def test_the_table_has_a_column_and_the_figure_a_line_per_grid(tmp_path: Path) -> None:
    results = [
        {
            "sampler": "ddim",
            "grid": grid,
            "num_steps": steps,
            "frechet_distance": 10 / steps,
            "kid": 0.1,
            "kid_standard_error": 0.01,
        }
        for grid in ("uniform", OPTIMISED)
        for steps in (4, 8)
    ]
    text = report({"results": results})
    assert "| steps | uniform | optimised |" in text
    assert "| 8 | 1.25; 0.100 ± 0.010 | 1.25; 0.100 ± 0.010 |" in text
    write_figure(tmp_path / "figure.png", {"results": results})
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
