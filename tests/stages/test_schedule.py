import json
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from pipeline.artefacts.dataset import Dataset, DatasetInfo, digest_of, write_split
from pipeline.artefacts.schedule_table import read_schedule_table
from pipeline.artefacts.subset import images_for_levels
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.gaussian import SHRINKAGES
from pipeline.diffusion.timetables import optimise_each
from pipeline.errors import CheckFailedError
from pipeline.params import ScheduleParams
from pipeline.schedule import OUTS, make_betas, make_density, noise_schedule, schedule
from pipeline.tracking import store
from tests.command_line import foundry

FILES = sorted(OUTS)


def params(**changes: Any) -> ScheduleParams:
    return ScheduleParams.model_validate(
        {
            "num_timesteps": 6,
            "betas": {"kind": "cosine"},
            "zero_terminal_snr": False,
            "min_snr_gamma": 5.0,
            "snr_floor": 0.1,
            "density": {"kind": "laplace"},
            "max_prior_kl_bits_per_dim": 0.01,
            "max_terminal_snr": 0.01,
            **changes,
        }
    )


Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def prepared_set(folder: Path, digits: Digits, *, labelled: bool = True) -> Dataset:
    images, labels = digits[0][..., None], digits[1]
    for split, part in (("train", np.arange(1500)), ("held_out", np.arange(1500, 1797))):
        write_split(folder / split, part, images.__getitem__, labels[part] if labelled else None)
    # A dollar sign is no mathematics in a plot.
    names = tuple(f"digit $ {i}$" for i in range(10)) if labelled else None
    info = DatasetInfo(
        image_size=8, channels=1, class_names=names, num_train=1500, num_held_out=297, digest=digest_of(folder)
    )
    (folder / "dataset.json").write_text(json.dumps(info.document()))
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def prepared_folder(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepared_set(folder, digits)
    return folder


@pytest.fixture(scope="module")
def prepared(prepared_folder: Path) -> Dataset:
    return Dataset.open(prepared_folder)


@pytest.fixture(scope="module")
def out(prepared: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schedule")
    schedule(prepared, folder, params())
    return folder


def test_the_stage_writes_the_files_of_the_contract_and_nothing_else(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_a_second_run_writes_the_same_bytes(prepared: Dataset, out: Path, tmp_path: Path) -> None:
    (tmp_path / "timetables.json").write_text("of an earlier run")
    schedule(prepared, tmp_path, params())
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def test_moments_and_statistics_are_those_of_the_training_images(prepared: Dataset, out: Path) -> None:
    x0 = prepared.split("train").images(slice(None)).astype(np.float64) * 2 / 255 - 1
    moments = load_file(out / "moments.safetensors")
    np.testing.assert_allclose(moments["mean_image"], x0.mean(0).transpose(2, 0, 1), atol=1e-12)
    covariance = np.cov(x0.reshape(1500, -1), rowvar=False, bias=True)
    np.testing.assert_allclose(moments["eigenvalues"], np.linalg.eigvalsh(covariance)[::-1].clip(0), atol=1e-12)
    statistics = json.loads((out / "statistics.json").read_text())
    assert statistics["schedule/sigma_data"] == pytest.approx(x0.std())
    assert statistics["schedule/mean_x0_squared"] == pytest.approx((x0**2).mean())
    assert statistics["schedule/num_timesteps"] == 6
    assert statistics["schedule/gates_passed"] is True


def test_the_table_holds_the_error_on_held_out_images_of_the_best_linear_denoiser_of_the_training_images(
    prepared: Dataset, out: Path
) -> None:
    table = read_schedule_table(out / "table.parquet")
    train, held_out = (
        images.reshape(-1, 64).astype(np.float64) / 127.5 - 1
        for images in (prepared.split("train").images(slice(None)), images_for_levels(prepared.split("held_out"))[:])
    )
    covariance, mean = np.cov(train, rowvar=False, bias=True), train.mean(0)
    rng = np.random.default_rng(0)
    for t in range(len(table.schedule.abar)):
        a, b = float(table.schedule.abar[t]) ** 0.5, float(table.schedule.one_minus_abar[t]) ** 0.5
        errors = []
        for share in SHRINKAGES:
            shrunk = (1 - share) * covariance + share * np.trace(covariance) / 64 * np.eye(64)
            noisy = a * (held_out - mean) + b * rng.standard_normal((20, *held_out.shape))
            gain = np.linalg.solve(a**2 * shrunk + b**2 * np.eye(64), a * shrunk)
            errors.append(((noisy @ gain - (held_out - mean)) ** 2).mean())
        assert table.linear_denoiser_mse[t].item() == pytest.approx(min(errors), rel=0.05)


def test_timetables_are_those_of_the_search_for_all_numbers_of_steps_up_to_t(out: Path) -> None:
    timetables = json.loads((out / "timetables.json").read_text())
    assert sorted(timetables) == ["ddim", "ddpm", "dpmpp_2m"]
    assert all(sorted(tables) == ["4", "5", "6"] for tables in timetables.values())
    eigenvalues = load_file(out / "moments.safetensors")["eigenvalues"]
    noise = read_schedule_table(out / "table.parquet").schedule
    assert timetables["ddim"]["4"] == list(next(optimise_each("ddim", [4], noise, eigenvalues)))


def test_a_set_without_classes_goes_through_too_with_a_single_step(digits: Digits, tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    schedule(prepared_set(tmp_path / "prepared", digits, labelled=False), tmp_path / "out", params(num_timesteps=1))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert json.loads((tmp_path / "out" / "timetables.json").read_text()) == {"ddim": {}, "ddpm": {}, "dpmpp_2m": {}}


def test_a_schedule_that_leaves_the_image_visible_fails_both_gates_with_evidence(
    prepared: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(CheckFailedError) as failure:
        schedule(prepared, tmp_path, params(betas={"kind": "linear"}))
    lines = str(failure.value).splitlines()
    assert len(lines) == 2
    assert "statistics.json: schedule/prior_kl_bits_per_dim: found" in lines[0]
    assert "schedule/terminal_snr: found 15.97, wanted at most 0.01 (schedule.max_terminal_snr)" in lines[1]
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert statistics["schedule/gates_passed"] is False
    assert statistics["schedule/terminal_snr"] == pytest.approx(15.97, abs=0.01)
    assert (tmp_path / "forward.png").exists()
    assert not (tmp_path / "timetables.json").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.5, 1e-17, 0.5), r"params.yaml: schedule.betas: beta\[1\]: abar does not fall here"),
        ((0.5, 1.0, 0.5), r"beta\[1\]: only the last beta may be 1"),
    ],
)
def test_betas_whose_abar_does_not_fall_fail_the_gate_with_evidence(
    tmp_path: Path, values: tuple[float, ...], message: str
) -> None:
    with pytest.raises(CheckFailedError, match=message):
        noise_schedule(params(num_timesteps=3, betas={"kind": "trained", "values": values}), tmp_path)
    assert json.loads((tmp_path / "statistics.json").read_text()) == {
        "schedule/gates_passed": False,
        "schedule/num_timesteps": 3,
    }


@pytest.mark.parametrize(
    "betas",
    [
        {"kind": "linear"},
        {"kind": "scaled_linear"},
        {"kind": "cosine"},
        {"kind": "sigmoid"},
        {"kind": "trained", "values": (0.1, 0.2, 0.3)},
    ],
    ids=lambda betas: betas["kind"],
)
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_every_kind_of_betas_makes_a_schedule(betas: dict[str, Any], zero_terminal_snr: bool) -> None:  # noqa: FBT001
    beta = make_betas(params(num_timesteps=3, betas=betas, zero_terminal_snr=zero_terminal_snr))
    assert beta.shape == (3,)
    assert (beta[-1] == 1) == zero_terminal_snr
    if betas["kind"] == "trained" and not zero_terminal_snr:
        assert beta.tolist() == list(betas["values"])


def test_settings_of_betas_and_density_reach_their_formulas(tmp_path: Path) -> None:
    betas = {"kind": "cosine", "offset": 0.1, "max_beta": 0.9}
    assert torch.equal(make_betas(params(betas=betas)), cosine_betas(6, offset=0.1, max_beta=0.9))
    noise = noise_schedule(params(num_timesteps=1000), tmp_path)
    for std in (0.5, 2.0):
        density = make_density(params(density={"kind": "normal", "mean": 1.0, "std": std}).density, noise)
        mean = (density * noise.log_snr).sum()
        assert mean.item() == pytest.approx(1.0, abs=0.01)
        assert (density * (noise.log_snr - mean) ** 2).sum().sqrt().item() == pytest.approx(std, rel=0.01)


@pytest.fixture
def threads() -> Iterator[None]:
    """The command works with one thread; other tests in this process should not."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.usefixtures("tracking_store", "threads")
@pytest.mark.parametrize("limit", [0.01, 1e-9])
def test_the_command_shows_mlflow_its_figures_and_pictures_and_the_evidence_of_a_failed_gate(
    root: Path, workspace: Path, prepared_folder: Path, limit: float
) -> None:
    text = (root / "tests" / "params.yaml").read_text().replace("num_timesteps: 1000", "num_timesteps: 6")
    text = re.sub("num_steps: .*", "num_steps: 6", text)
    (workspace / "params.yaml").write_text(re.sub("max_terminal_snr: .*", f"max_terminal_snr: {limit:.1e}", text))
    with nullcontext() if limit > 1e-4 else pytest.raises(CheckFailedError, match=r"out/statistics\.json"):
        foundry("schedule", "--prepared", prepared_folder, "--out", "out")
    client = store.connect()
    (run,) = client.search_runs([store.experiment_id(client)], "attributes.run_name = 'schedule'")
    statistics = json.loads(Path("out/statistics.json").read_text())
    assert run.data.metrics == pytest.approx({name: float(value) for name, value in statistics.items()})
    assert run.data.params["schedule.num_timesteps"] == "6"
    (pictures,) = client.search_runs([store.experiment_id(client)], "attributes.run_name LIKE 'pictures of %'")
    images = [file.path for file in client.list_artifacts(pictures.info.run_id, "images")]
    assert sum("schedule~forward" in image and image.endswith(".png") for image in images) == 1
    assert sum("schedule~curves" in image and image.endswith(".png") for image in images) == 1
