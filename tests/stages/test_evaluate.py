import hashlib
import json
import re
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pipeline.adoption.evaluation_work import evaluation_work
from pipeline.artefacts.dataset import Dataset
from pipeline.artefacts.model import SNAPSHOTS, TEACHER, DataSpec, Description, build_network, load_model, save_model
from pipeline.artefacts.sampling_defaults import SamplingDefaults
from pipeline.artefacts.schedule_table import ScheduleTable, write_schedule_table
from pipeline.artefacts.tensors import save_tensors
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.density import uniform_density
from pipeline.diffusion.gaussian import linear_denoiser_mse
from pipeline.diffusion.moments import image_moments
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.diffusion.target import TARGETS
from pipeline.diffusion.unet import UNet
from pipeline.diffusion.weighting import WEIGHTINGS, SnrBounds, loss_weight
from pipeline.errors import ArtefactError
from pipeline.evaluate import OUTS, evaluate, read_inputs
from pipeline.evaluation.extractors.extractor import Extractor
from pipeline.evaluation.figures import BY_ROWS, CHIEF_FIGURES, FIGURES, distances_by_rows
from pipeline.evaluation.results import read_results
from pipeline.evaluation.samples import balanced_labels
from pipeline.evaluation.tuning.apply import apply_tuning
from pipeline.evaluation.verdict import verdict
from pipeline.features import features
from pipeline.inference.draw import draw
from tests.command_line import foundry
from tests.small_sets import PARAMS, SMALL_NETWORK, evaluate_params, features_params, write_prepared

pytestmark = pytest.mark.trains

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
EVALUATE = evaluate_params(guidance_scales=(1.5, 2.0), guidance_intervals=((0.0, 1.0),))
BOUNDS = SnrBounds(0.1, 5.0)


def _write_schedule(folder: Path, prepared: Dataset, num_timesteps: int = 50) -> ScheduleTable:
    schedule = NoiseSchedule(cosine_betas(num_timesteps))
    moments = image_moments([torch.tensor(prepared.split("train").images(slice(None)))])
    weights = {(target, name): loss_weight(target, name, schedule, BOUNDS) for target in TARGETS for name in WEIGHTINGS}
    table = ScheduleTable(
        schedule, uniform_density(schedule), weights, linear_denoiser_mse(moments.eigenvalues, schedule)
    )
    folder.mkdir(parents=True)
    write_schedule_table(folder / "table.parquet", table)
    return table


def _write_model(folder: Path, prepared: Dataset, table: ScheduleTable) -> None:
    info = prepared.info
    description = Description(
        data=DataSpec(image_size=info.image_size, channels=info.channels, class_names=info.class_names, sigma_data=0.7),
        network=SMALL_NETWORK,
        target="v",
        sampling=SamplingDefaults(sampler="ddim", num_steps=10, guidance_scale=1.0),
        timetables={"dpmpp_2m": {"4": (49, 30, 12, 2)}},
    )
    weights = build_network(description, seed=0).state_dict()
    save_model(folder, description, weights=weights, schedule=table.schedule)
    snapshots = {
        f"{step}/{width}/{name}": tensor.clone()
        for step in (5, 10)
        for width in (0.05, 0.1)
        for name, tensor in weights.items()
    }
    save_tensors(folder / SNAPSHOTS, snapshots)


def _write_all(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, extractor: str) -> Path:
    prepared = write_prepared(folder / "prepared", images, labels, 200)
    table = _write_schedule(folder / "schedule", prepared)
    _write_model(folder / "model", prepared, table)
    params = features_params(extractor=extractor, num_images=4000)
    features(prepared, folder / "features", params)
    return folder


def _evaluate(data: Path, out: Path) -> dict[str, float]:
    inputs = read_inputs(*(data / name for name in ("model", "prepared", "schedule", "features")))
    return evaluate(inputs, out, PARAMS.model_copy(update={"evaluate": EVALUATE}))[1]


@pytest.fixture(scope="module")
def data(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, and an untrained model of them."""
    images, labels = digits[0][:1000, ..., None], digits[1][:1000]
    return _write_all(tmp_path_factory.mktemp("labelled"), images, labels, "classifier")


@pytest.fixture(scope="module")
def counts() -> dict[str, list[int]]:
    """The images of each call of the network and of the extractor during the evaluation of `out`."""
    return {"rows": [], "features": []}


@pytest.fixture(scope="module")
def out(data: Path, counts: dict[str, list[int]]) -> Path:
    forward, features_of = UNet.forward, Extractor.features

    def counted_forward(network: UNet, x: Tensor, *arguments: Tensor) -> Tensor:
        counts["rows"].append(len(x))
        return forward(network, x, *arguments)

    def counted_features(extractor: Extractor, images: NDArray[np.uint8]) -> Tensor:
        counts["features"].append(len(images))
        return features_of(extractor, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet, "forward", counted_forward)
        patch.setattr(Extractor, "features", counted_features)
        _evaluate(data, data / "evaluation")
    return data / "evaluation"


@pytest.fixture(scope="module")
def metrics(out: Path) -> dict[str, float]:
    return read_results(out)


def test_the_files_are_those_of_the_contract(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == sorted(OUTS)


def test_the_work_is_what_was_counted_before(data: Path, out: Path, counts: dict[str, list[int]]) -> None:
    assert out.exists()
    planned = evaluation_work(EVALUATE, Dataset.open(data / "prepared").info, 50)
    # Batches are filled up to 16 rows: of 50 images 64 pass through the network.
    assert 0.9 * planned.num_rows < sum(counts["rows"]) < 1.3 * planned.num_rows
    assert 0.9 * planned.num_features < sum(counts["features"]) <= planned.num_features


def test_a_second_run_writes_the_same_bytes(data: Path, out: Path, tmp_path: Path) -> None:
    _evaluate(data, tmp_path)
    for name in OUTS:
        digests = {hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (out, tmp_path)}
        assert len(digests) == 1, name


def test_each_figure_of_images_has_a_floor_and_a_baseline(metrics: dict[str, float]) -> None:
    assert all(np.isfinite(value) for value in metrics.values())
    names = {
        phase: {name.removeprefix(f"{phase}/") for name in metrics if name.startswith(f"{phase}/")}
        for phase in ("evaluate", "floor", "baseline")
    }
    by_rows = {BY_ROWS.format(rows) for rows, *_ in distances_by_rows(metrics)}
    assert names["floor"] - by_rows == names["baseline"]
    only_the_models = {"mse_over_linear", "levels_better_than_linear", "mse_over_training"} | {
        name for name in names["evaluate"] if name.startswith("bits_per_dim")
    }
    assert names["evaluate"] - only_the_models == names["floor"]
    assert len(metrics) == sum(map(len, names.values()))


def test_the_table_of_figures_lists_every_figure_and_no_other(metrics: dict[str, float]) -> None:
    names = {name.removeprefix("evaluate/") for name in metrics if name.startswith("evaluate/")}
    assert {name for name in names if not name.endswith("_standard_error")} - {"num_images"} == {
        *FIGURES,
        *(BY_ROWS.format(rows) for rows, *_ in distances_by_rows(metrics)),
    }
    assert set(CHIEF_FIGURES) <= set(FIGURES)


def test_an_untrained_model_is_worse_than_real_images_and_than_the_baseline(
    metrics: dict[str, float],
) -> None:
    for figure in ("kid", "kid_to_all", "frechet_distance"):
        assert metrics[f"evaluate/{figure}"] > metrics[f"baseline/{figure}"] > metrics[f"floor/{figure}"]
    assert metrics["evaluate/levels_better_than_linear"] < 0.5
    assert metrics["evaluate/class_agreement"] < 0.3 < metrics["baseline/class_agreement"]


def test_the_report_begins_with_the_verdict(out: Path, metrics: dict[str, float]) -> None:
    found = verdict(metrics, PARAMS.train)
    assert found.is_good is False
    page = unescape((out / "report.html").read_text()).split("<h2>")[0]
    assert [line for line in found.lines() if line not in page] == []
    assert f"worse than a mixture of Gaussians (KID {metrics['evaluate/kid_to_all']:.3g}" in found.headline
    assert "foundry set train.num_images=" in found.advice


def test_the_figures_are_in_the_contract(metrics: dict[str, float]) -> None:
    contracts = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text()
    section = contracts.split("\n## data/evaluation\n")[1].split("\n## ")[0]
    listed = set(re.findall(r"`([a-zN_]+)`", "".join(re.findall(r"^\| (`[^|]+)\|", section, re.MULTILINE))))
    assert {re.sub(r"_\d+_rows", "_N_rows", name.split("/")[1]) for name in metrics} <= listed


def test_the_tuned_model_draws_the_samples_again_from_their_classes_and_seeds(
    data: Path, out: Path, tmp_path: Path
) -> None:
    tuned = apply_tuning(load_model(data / "model"), data / "model", out / "tuning.json", tmp_path / "tuned")
    with np.load(out / "samples.npz") as samples:
        assert sorted(samples) == ["images", "labels", "seeds"]
        assert samples["images"].shape == (EVALUATE.num_samples, 8, 8, 1)
        again = draw(tuned, samples["seeds"][7:8].tolist(), samples["labels"][7:8].tolist())
        assert np.array_equal(again[0], samples["images"][7])


def test_the_tuning_records_the_sampling_and_the_measurements_behind_it(out: Path) -> None:
    tuning = json.loads((out / "tuning.json").read_text())
    distances = tuning["guidance_distances"]
    assert list(distances) == ["1.5", "2"]
    best = min(distances, key=distances.__getitem__)
    assert tuning["sampling"] == {
        "sampler": "dpmpp_2m",
        "num_steps": 4,
        "guidance_scale": float(best),
        "guidance_interval": [0.0, 1.0],
    }
    losses = tuning["ema_losses"]
    assert [float(width) for width in losses] == list(EVALUATE.ema_widths)
    assert losses[str(tuning["ema_width"])] == min(losses.values())
    times = tuning["timetables"]["dpmpp_2m"]["4"]
    assert times[0] == 49
    assert times == sorted(set(times), reverse=True)
    assert 0 < tuning["refinement"]["after"] <= tuning["refinement"]["before"]


def test_a_student_keeps_its_sampling_and_reports_the_losses_of_its_teacher(
    data: Path, out: Path, tmp_path: Path
) -> None:
    for folder in ("prepared", "schedule", "features"):
        (tmp_path / folder).symlink_to(data / folder)
    teacher = load_model(data / "model")
    description = replace(
        teacher.description,
        sampling=SamplingDefaults(sampler="ddim", num_steps=2, guidance_scale=1.0),
        timetables={"ddim": {"2": (49, 20)}},
        provenance={"teacher": {"digest": teacher.digest}},
    )
    weights, kept = build_network(description, seed=1).state_dict(), teacher.network.state_dict()
    save_model(tmp_path / "model", description, weights=weights, schedule=teacher.schedule)
    snapshots = {f"5/0.05/{name}": tensor for name, tensor in weights.items()}
    save_tensors(tmp_path / "model" / SNAPSHOTS, snapshots | {f"{TEACHER}{name}": kept[name] for name in kept})
    _evaluate(tmp_path, tmp_path / "evaluation")

    tuning = json.loads((tmp_path / "evaluation" / "tuning.json").read_text())
    assert (tuning["ema_width"], tuning["ema_losses"], tuning["guidance_distances"]) == (None, {}, {})
    assert tuning["sampling"] == {
        "guidance_interval": [0.0, 1.0],
        "guidance_scale": 1.0,
        "num_steps": 2,
        "sampler": "ddim",
    }
    tuned = apply_tuning(
        load_model(tmp_path / "model"), tmp_path / "model", tmp_path / "evaluation" / "tuning.json", tmp_path / "tuned"
    )
    assert tuned.digest == load_model(tmp_path / "model").digest
    with np.load(tmp_path / "evaluation" / "samples.npz") as samples:
        again = draw(tuned, samples["seeds"][7:8].tolist(), samples["labels"][7:8].tolist())
        assert np.array_equal(again[0], samples["images"][7])
    # At other steps than those that it was trained for a student is not measured.
    assert pd.read_csv(tmp_path / "evaluation" / "quality_per_num_rows.csv")["num_rows"].tolist() == [2]
    levels = "loss_per_noise_level.csv"
    assert (tmp_path / "evaluation" / levels).read_bytes() == (out / levels).read_bytes()
    assert (
        "those of the model that this one was distilled from" in (tmp_path / "evaluation" / "report.html").read_text()
    )


def test_quality_is_measured_on_the_same_images_for_each_cost_up_to_the_schedules_steps(
    data: Path, out: Path, tmp_path: Path, metrics: dict[str, float]
) -> None:
    from pipeline.evaluation.evaluator import load_evaluator

    table = pd.read_csv(out / "quality_per_num_rows.csv")
    # Its own four steps are guided: two rows each.
    assert table[["sampler", "num_rows", "num_steps", "num_images"]].to_numpy().tolist() == [
        ["dpmpp_2m", 3, 3, 50],
        ["dpmpp_2m", 8, 4, 50],
    ]
    with np.load(out / "samples.npz") as samples:
        images, seeds, labels = (samples[name][:50] for name in ("images", "seeds", "labels"))
    tuned = apply_tuning(load_model(data / "model"), data / "model", out / "tuning.json", tmp_path / "tuned")
    drawn = [draw(tuned, seeds.tolist(), labels.tolist(), num_steps=3, guidance_scale=1.0), images]
    prepared = Dataset.open(data / "prepared")
    evaluator, new = load_evaluator(data / "features", prepared), load_evaluator(data / "features", prepared, "train")
    real = evaluator.figures(new.real[:50], None)
    for row, pictures in zip(table.itertuples(), drawn, strict=True):
        figures = evaluator.figures(pictures, None)
        for name in ("kid", "kid_standard_error", "frechet_distance"):
            assert getattr(row, name) == pytest.approx(figures[name], rel=1e-9), name
            assert getattr(row, f"real_{name}") == pytest.approx(real[name], rel=1e-6), name
    assert distances_by_rows(metrics) == [
        (row.num_rows, row.frechet_distance, row.real_frechet_distance) for row in table.itertuples()
    ]


def test_the_losses_are_listed_with_the_linear_denoisers(out: Path) -> None:
    levels = pd.read_csv(out / "loss_per_noise_level.csv")
    assert list(levels) == ["t", "log_snr", "held_out_mse", "linear_denoiser_mse"]
    assert (levels["linear_denoiser_mse"].diff().dropna() > 0).all()


def test_the_report_is_self_contained_and_shows_every_class(out: Path, metrics: dict[str, float]) -> None:
    page = (out / "report.html").read_text()
    assert len(page) < 3_000_000
    assert not re.search(r"https?://|<script|<link|src=\"(?!data:)|href=\"(?!#)|@import|url\(", page)
    assert "data:image/png;base64," in page
    for label in range(10):
        assert f"digit {label}" in page
    for name in ("evaluate/kid", "baseline/kid", "floor/recall", "evaluate/bits_per_dim"):
        assert f"{metrics[name]:,.4g}" in page
    for distance in json.loads((out / "tuning.json").read_text())["guidance_distances"].values():
        assert f"{distance:,.4g}" in page
    curves = re.findall(r'<path d="([^"]*)" style="fill: none; stroke: var\(--series', page)
    tables = [pd.read_csv(out / name) for name in ("loss_per_noise_level.csv", "quality_per_num_rows.csv")]
    assert [len(re.findall("[ML]", curve)) for curve in curves] == [len(table) for table in tables for _ in range(2)]


def test_the_grids_show_every_class_and_the_suspected_copies(out: Path) -> None:
    with Image.open(out / "grid.png") as grid, Image.open(out / "nearest.png") as nearest:
        assert grid.height == 10 * 57 - 1
        assert nearest.height == 4 * 57 - 1


def test_a_set_without_labels_is_evaluated_without_classes(digits: Digits, tmp_path: Path) -> None:
    colour = np.stack([digits[0][:400], 255 - digits[0][:400], digits[0][:400]], axis=-1)
    data = _write_all(tmp_path, colour, None, "random")
    metrics = _evaluate(data, tmp_path / "evaluation")
    assert not [name for name in metrics if "class" in name]
    assert {"evaluate/kid", "floor/kid", "baseline/kid", "evaluate/bits_per_dim"} <= set(metrics)
    with np.load(tmp_path / "evaluation" / "samples.npz") as samples:
        assert sorted(samples) == ["images", "seeds"]
        assert samples["images"].shape[1:] == (8, 8, 3)
    page = (tmp_path / "evaluation" / "report.html").read_text()
    assert "<h2>Classes</h2>" not in page
    assert "<h2>Guidance</h2>" not in page


def test_a_model_of_other_images_is_refused(data: Path, digits: Digits, tmp_path: Path) -> None:
    other = write_prepared(tmp_path / "prepared", digits[0][:100, :, :, None], None, 50)
    _write_model(tmp_path / "model", other, _write_schedule(tmp_path / "schedule", other))
    with pytest.raises(ArtefactError, match="made for size, channels and classes"):
        read_inputs(tmp_path / "model", data / "prepared", data / "schedule", data / "features")


def test_a_model_of_another_schedule_is_refused(data: Path, tmp_path: Path) -> None:
    _write_schedule(tmp_path / "schedule", Dataset.open(data / "prepared"), num_timesteps=60)
    with pytest.raises(ArtefactError, match=r"its noise schedule is not that of .*table\.parquet"):
        read_inputs(data / "model", data / "prepared", tmp_path / "schedule", data / "features")


@pytest.mark.parametrize(
    "name",
    ["features/floors.json", "features/reference.safetensors", "model/model.json", "model/snapshots.safetensors"],
)
def test_a_missing_file_is_reported_with_its_path(data: Path, tmp_path: Path, name: str) -> None:
    for folder in ("model", "prepared", "schedule", "features"):
        shutil.copytree(data / folder, tmp_path / folder)
    (tmp_path / name).unlink()
    with pytest.raises(ArtefactError, match=re.escape(name)):
        read_inputs(*(tmp_path / folder for folder in ("model", "prepared", "schedule", "features")))


@pytest.mark.usefixtures("tracking_store")
def test_the_command_reads_params_and_reports_to_mlflow(
    data: Path, out: Path, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.tracking import store

    document = PARAMS.model_dump(mode="json", by_alias=True)
    document["evaluate"] = EVALUATE.model_dump(mode="json")
    (workspace / "params.yaml").write_text(yaml.safe_dump(document))
    for folder in ("model", "prepared", "schedule", "features"):
        shutil.copytree(data / folder, workspace / "data" / folder)
    foundry("evaluate")
    assert capsys.readouterr().out.startswith("Not better than the baselines: worse than a mixture of Gaussians")
    assert (workspace / "data/evaluation/metrics.json").read_bytes() == (out / "metrics.json").read_bytes()
    client = store.connect()
    experiment = store.experiment_id(client)
    runs = client.search_runs([experiment], "attributes.run_name = 'evaluate'")
    # The floors and the baseline are in its table, figures.csv, and draw no charts.
    assert runs[0].data.metrics == pytest.approx(json.loads((out / "metrics.json").read_text()))
    tuning = json.loads((out / "tuning.json").read_text())
    assert runs[0].data.tags["verdict"].startswith("Not better than the baselines")
    assert runs[0].data.tags["tuning.guidance_scale"] == str(tuning["sampling"]["guidance_scale"])
    assert {"report.html", "figures.csv"} <= {file.path for file in client.list_artifacts(runs[0].info.run_id)}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 300))
def test_every_prefix_of_the_labels_has_the_shares_of_the_classes(sizes: list[int], count: int) -> None:
    classes = np.repeat(np.arange(len(sizes)), sizes)
    labels = balanced_labels(classes, count)
    assert len(labels) == count
    wanted = np.array(sizes) / sum(sizes)
    for length in range(1, count + 1):
        found = np.bincount(labels[:length], minlength=len(sizes))
        assert np.abs(found - wanted * length).max() <= 1 + len(sizes) / 2


def test_classes_of_equal_size_are_drawn_in_turn() -> None:
    assert balanced_labels(np.repeat(np.arange(4), 9), 10).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
