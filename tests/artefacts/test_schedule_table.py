from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.artefacts.schedule_table import WEIGHT_COLUMNS, ScheduleTable, read_schedule_table, write_schedule_table
from pipeline.diffusion.betas import cosine_betas, linear_betas, rescale_zero_terminal_snr
from pipeline.diffusion.density import normal_density
from pipeline.diffusion.gaussian import linear_denoiser_mse
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.weighting import SnrBounds, loss_weight
from pipeline.errors import ArtefactError

COLUMNS = [
    "t",
    "beta",
    "alpha",
    "abar",
    "sqrt_abar",
    "sqrt_one_minus_abar",
    "snr",
    "log_snr",
    "sigma",
    "posterior_variance",
    "posterior_x0_coefficient",
    "posterior_x_coefficient",
    *(
        f"weight_{target}_{name}"
        for target in ("x0", "eps", "v")
        for name in ("uniform", "min_snr", "bounded_snr", "snr", "vlb")
    ),
    "density",
    "linear_denoiser_mse",
]


def table_of(beta: torch.Tensor) -> ScheduleTable:
    schedule = NoiseSchedule(beta)
    return ScheduleTable(
        schedule=schedule,
        density=normal_density(schedule, 0.0, 2.0),
        weights={pair: loss_weight(*pair, schedule, SnrBounds(0.05, 5.0)) for pair in WEIGHT_COLUMNS},
        linear_denoiser_mse=linear_denoiser_mse(torch.tensor([2.0, 0.5], dtype=torch.float64), schedule),
    )


@pytest.mark.parametrize(
    "beta",
    [cosine_betas(1000), linear_betas(1), rescale_zero_terminal_snr(linear_betas(20))],
    ids=["cosine", "one_step", "zero_snr"],
)
def test_a_table_comes_back_bit_for_bit(tmp_path: Path, beta: torch.Tensor) -> None:
    table, path = table_of(beta), tmp_path / "table.parquet"
    write_schedule_table(path, table)
    again = read_schedule_table(path)
    assert again.schedule.digest == table.schedule.digest
    assert torch.equal(again.density, table.density)
    assert torch.equal(again.linear_denoiser_mse, table.linear_denoiser_mse)
    for pair in WEIGHT_COLUMNS:
        assert torch.equal(again.weight(*pair), table.weight(*pair))


def test_the_file_has_the_columns_of_the_contract_in_float64(tmp_path: Path) -> None:
    write_schedule_table(tmp_path / "table.parquet", table_of(cosine_betas(10)))
    frame = pd.read_parquet(tmp_path / "table.parquet")
    assert list(frame.columns) == COLUMNS
    assert frame["t"].tolist() == list(range(10))
    assert all(frame[name].dtype == np.float64 for name in COLUMNS[1:])


def test_the_same_table_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_schedule_table(tmp_path / name, table_of(cosine_betas(50)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("beta", 1.5, r"column beta: beta\[3\]: should be in \(0, 1\] \(got 1.5\)"),
        ("beta", None, r"column beta: beta\[3\]: .*got nan"),
        ("abar", 0.5, "column abar: does not follow from column beta"),
        ("snr", None, "column snr: does not follow from column beta"),
        ("density", 0.5, "column density: should sum to 1"),
        ("density", -0.1, "column density: should be finite and not negative"),
        ("weight_v_min_snr", np.inf, "column weight_v_min_snr: should be finite"),
        ("linear_denoiser_mse", None, "column linear_denoiser_mse: should be finite"),
    ],
)
def test_a_table_with_a_damaged_entry_is_refused_by_column(
    tmp_path: Path, column: str, value: float | None, message: str
) -> None:
    frame, path = table_of(cosine_betas(10)).frame(), tmp_path / "table.parquet"
    frame.loc[3, column] = value
    frame.to_parquet(path)
    with pytest.raises(ArtefactError, match=f"table.parquet: {message}"):
        read_schedule_table(path)


def test_what_is_no_table_is_refused_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    with pytest.raises(ArtefactError, match=r"table\.parquet: not found"):
        read_schedule_table(path)
    table_of(cosine_betas(10)).frame().drop(columns="density").to_parquet(path)
    with pytest.raises(ArtefactError, match="column density: should be float64 .got no such column"):
        read_schedule_table(path)
    table_of(cosine_betas(10)).frame().astype({"beta": "float32"}).to_parquet(path)
    with pytest.raises(ArtefactError, match="column beta: should be float64 .got float32"):
        read_schedule_table(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtefactError, match="not a whole parquet file"):
        read_schedule_table(path)
