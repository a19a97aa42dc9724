import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline.artefacts.model import DataSpec, Description, build_network, model_digest, save_model
from pipeline.artefacts.sampling_defaults import DEFAULT_SAMPLING
from pipeline.commands import report
from pipeline.diffusion.betas import cosine_betas
from pipeline.diffusion.noise import NoiseSchedule
from pipeline.errors import ArtefactError
from pipeline.evaluation.results import write_results
from pipeline.registry.versions import COMPLETE_TAG
from pipeline.reporting import retraining
from pipeline.reporting.model_summaries import Folders, ModelSummary
from pipeline.tracking import runs, store
from pipeline.tracking.tags import DIGEST_TAG
from tests.image_sets import prepare_arrays, write_arrays
from tests.small_sets import BETTER_THAN_BASELINES, SMALL_NETWORK

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
FOLDERS = Folders(
    model=Path("data/model"),
    prepared=Path("data/prepared"),
    evaluation=Path("data/evaluation"),
    registration=Path("data/registration"),
)
NAME = "digits"
KID_DIFFERENCE = {
    "value": -0.5, "low": -0.7, "high": -0.3, "level": 0.005, "num_challengers": 3, "num_champions": 1,
    "seed_correlation": None, "visible": 0.75, "margin": 0.05,
}  # fmt: skip


class Page(HTMLParser):
    """Text, tags and links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def write_model(folder: Path, seed: int) -> str:
    """Write a model of digits; returns its digest."""
    description = Description(
        data=DataSpec(image_size=8, channels=1, class_names=tuple("0123456789"), sigma_data=0.5),
        network=SMALL_NETWORK,
        target="v",
        sampling=DEFAULT_SAMPLING,
    )
    weights = build_network(description, seed=seed).state_dict()
    save_model(folder, description, weights=weights, schedule=NoiseSchedule(cosine_betas(25)))
    (folder / "curves.csv").write_text("images,train/loss\n64,1.0\n128,0.5\n")
    return model_digest(folder)


def write_evaluation(folder: Path, kid: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"evaluate/kid": kid, "evaluate/kid_standard_error": 0.1, "floor/kid": 0.0, "evaluate/num_images": 100}
    write_results(folder, BETTER_THAN_BASELINES | figures)
    (folder / "loss_per_noise_level.csv").write_text(
        "t,log_snr,held_out_mse,linear_denoiser_mse\n0,6.0,0.01,0.02\n24,-6.0,0.5,0.4\n"
    )


@pytest.fixture
def work_tree(tracking_server: Path, digits: Digits, prepare_params: Any, root: Path) -> Path:
    """A project with an evaluated model and an empty registry."""
    folder = tracking_server
    params = prepare_params(source="arrays", channels=1)
    prepare_arrays(
        write_arrays(folder / "data/raw", digits[0][:300], digits[1][:300]), folder / "data/prepared", params
    )
    write_model(folder / "data/model", seed=1)
    write_evaluation(folder / "data/evaluation", kid=1.0)
    document = yaml.safe_load((root / "tests" / "params.yaml").read_text())
    document["register"]["model_name"] = NAME
    (folder / "params.yaml").write_text(yaml.safe_dump(document))
    return folder


def register_champion(folder: Path, learning_rate: str) -> None:
    """Register version 1 through MLflow's client, with only what the report reads."""
    digest = write_model(folder / "champion", seed=2)
    with runs.stage_run("train", params={}) as run:
        run.tags({DIGEST_TAG: digest})
        run.metrics({"train/loss": 2.0}, step=64)
        run.metrics({"train/seconds": 1250.0})
    client = store.connect()
    [trained] = [run for run in client.search_runs([store.experiment_id(client)]) if run.info.run_name == "train"]
    parent = trained.data.tags["mlflow.parentRunId"]
    client.log_param(parent, "champion.only", learning_rate)
    logged = client.create_logged_model(store.experiment_id(client), NAME)
    client.log_model_artifacts(logged.model_id, str(folder / "champion"))
    for path in (folder / "champion").iterdir():
        if path.is_file():
            client.log_model_artifact(logged.model_id, str(path), "artifacts/model")
    client.finalize_logged_model(logged.model_id, "READY")
    client.create_registered_model(NAME)
    tags = {DIGEST_TAG: digest, COMPLETE_TAG: "now", "data.digest": "0" * 64}
    source, run_id = f"models:/{logged.model_id}", trained.info.run_id
    client.create_model_version(NAME, source, run_id, tags=tags, model_id=logged.model_id)
    client.set_registered_model_alias(NAME, "champion", "1")


def test_the_report_of_a_first_model_is_self_contained(work_tree: Path) -> None:
    page, comment = report.report(FOLDERS, FOLDERS.registration)
    shown = Page(page)
    assert "this is the first model" in shown.text
    assert "not decided yet" in shown.text
    headline = "Better than the baselines: better than a mixture of Gaussians (KID 1 ± 0.2, the mixture's 100)"
    assert headline in shown.text
    assert headline in comment.read_text()
    assert "- No fault stands out; a longer training may still help: `foundry set" in comment.read_text()
    assert shown.loaded
    assert all(uri.startswith("data:image/png;base64,") for uri in shown.loaded)
    assert not {"script", "link", "iframe"} & set(shown.tags)
    assert page.stat().st_size < 3 * 2**20
    assert comment.read_text().startswith(retraining.MARKER)
    assert "| KID | 1 [0.804, 1.196] |  | 0 | 100 |" in comment.read_text()
    assert work_tree.exists()


def test_the_losses_of_a_student_are_said_to_be_its_teachers(work_tree: Path) -> None:
    document = yaml.safe_load((work_tree / "params.yaml").read_text())
    document["distil"]["steps"] = 2
    (work_tree / "params.yaml").write_text(yaml.safe_dump(document))
    page, comment = report.report(FOLDERS, FOLDERS.registration)
    said = "this work tree is a student: its losses on held-out images are its teacher's."
    assert said in Page(page).text
    assert f"\n\n{said}\n" in comment.read_text()


def test_without_a_tracking_store_the_rest_is_reported(work_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    page, _ = report.report(FOLDERS, FOLDERS.registration)
    assert "http://127.0.0.1:9" in Page(page).text
    assert work_tree.exists()


def test_the_champion_is_shown_beside_the_challenger(work_tree: Path) -> None:
    register_champion(work_tree, "0.002")
    decision = {
        "decision": "reject",
        "champion": "1",
        "challenger": None,
        "model_digest": "",
        "comparison": {"kid_difference": KID_DIFFERENCE, "challenger": {"figures": {"kid": 1.0}}},
        "rules": [
            {"name": "kid_is_lower", "passed": False, "found": 0.25, "wanted": "<below> 0", "measured": False},
            {"name": "latency", "passed": True, "found": 1.01, "wanted": "at most 1.25", "measured": True},
        ],
    }
    (work_tree / "data/registration").mkdir()
    (work_tree / "data/registration/decision.json").write_text(json.dumps(decision))
    page, comment = report.report(FOLDERS, FOLDERS.registration)
    shown, text = Page(page), comment.read_text()
    assert "digits version 1" in shown.text
    assert len([uri for uri in shown.loaded if len(uri) > 1000]) == 2
    assert "kid is lower0.25<below> 0" in shown.text
    assert "latency1.01 measuredat most 1.25" in shown.text
    assert "training time, s1,250" in shown.text
    assert "| ❌ | kid is lower | 0.25 | &lt;below> 0 |" in text
    assert "`champion.only`" in text
    assert "the changes are unknown" in text
    assert "on the same held-out images: -0.5, with the luck of images and seeds -0.7 to -0.3 (3 against 1 tr" in text
    assert "each in a process of its own" in shown.text
    assert len(re.findall(r"<path [^>]*fill: none; stroke: var\(--series", page.read_text())) == 2 + 2


def test_the_report_is_logged_to_the_run_of_the_pipeline(work_tree: Path) -> None:
    with runs.stage_run("evaluate", params={}) as run:
        run.tags({DIGEST_TAG: model_digest(work_tree / "data/model")})
    report.report(FOLDERS, FOLDERS.registration)
    client = store.connect()
    [evaluated] = [run for run in client.search_runs([store.experiment_id(client)]) if run.info.run_name == "evaluate"]
    files = {file.path for file in client.list_artifacts(evaluated.data.tags["mlflow.parentRunId"])}
    assert {"report.html", "report.md"} <= files


def test_a_missing_evaluation_is_an_error(work_tree: Path) -> None:
    (work_tree / "data/evaluation/metrics.json").unlink()
    with pytest.raises(ArtefactError, match=r"metrics\.json"):
        report.report(FOLDERS, FOLDERS.registration)


def test_the_figures_behind_a_decision_are_those_of_both_models() -> None:
    comparison = {
        "kid_difference": KID_DIFFERENCE,
        "challenger": {"figures": {"kid": 1.0}},
        "champion": {"figures": {"kid": 1.5}},
        "measured": {"challenger": {"batch_ms": 12.0}, "champion": {"batch_ms": 11.0}},
    }
    found = retraining.evaluations({"comparison": comparison})
    assert found is not None
    assert found.kid_difference == (
        "-0.5, with the luck of images and seeds -0.7 to -0.3 (3 against 1 trainings); the upper limit may be 0.05 at most"
    )
    assert found.rows == [("kid", 1.0, 1.5), ("batch_ms", 12.0, 11.0)]
    assert retraining.evaluations({"comparison": None}) is retraining.evaluations(None) is None


def test_only_changed_parameters_are_listed() -> None:
    champion = ModelSummary(name="a", metrics={}, params={"x": "1", "y": "2", "gone": "3"})
    challenger = ModelSummary(name="b", metrics={}, params={"x": "1", "y": "4", "new": "5"})
    found = [(each.name, each.before, each.after) for each in retraining.changed_params(champion, challenger)]
    assert found == [("gone", "3", None), ("new", None, "5"), ("y", "2", "4")]
    assert retraining.changed_params(None, challenger) == []
