import json
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.errors import FoundryError
from pipeline.evaluation.results import write_results
from pipeline.reporting.run_comparison import mean_of
from pipeline.tracking import runs, store
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.tags import HIT_TAG, PARENT_TAG, RECIPE_TAG, SOURCE_TAG, STAGE_TAG
from tests.command_line import foundry

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
STEPS = (0, 640, 6400)


def run_pipeline(name: str, recipe: str, train: dict[str, Any], kid: float, side: int = 40) -> str:
    """Log a training and an evaluation of one pipeline; returns MLflow's id of its run."""
    distil = {"steps": 2 if name == "student" else None}
    Path("params.yaml").write_text(yaml.safe_dump({"train": train, "distil": distil, "evaluate": {"seed": 3}}))
    parent, random = uuid.uuid4().hex, np.random.default_rng(train["seed"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_EXP_NAME", name)
        with runs.stage_run("train", params={"train": train}, resume_run_id=f"{parent}.{uuid.uuid4().hex}") as run:
            for step in STEPS:
                run.metrics({"train/loss": 1.0 / (1 + step)}, step=step)
                Image.fromarray(random.integers(0, 255, (side, side), np.uint8)).save("grid.png")
                run.image("train/grid", Path("grid.png"), step=step)
        with runs.stage_run("evaluate", params={}, resume_run_id=f"{parent}.{uuid.uuid4().hex}") as run:
            run.tags({RECIPE_TAG: recipe})
            run.image("evaluate/grid", Path("grid.png"))
            figures = {"kid": kid, "kid_standard_error": 0.01, "recall": 0.5, "num_images": 100}
            write_results(
                Path(),
                {
                    f"{origin}/{key}": value
                    for origin in ("evaluate", "floor", "baseline")
                    for key, value in figures.items()
                },
            )
            Path("quality_per_num_steps.csv").write_text(f"sampler,num_steps,kid\nddim,5,{2 * kid}\nddim,10,{kid}\n")
            for file in ("metrics.json", "figures.csv", "quality_per_num_steps.csv"):
                run.artifact(Path(file))
    [found] = [run for run in PastRuns().pipelines(10) if run.info.run_name == name]
    return str(found.info.run_id)


@pytest.fixture
def three(tracking_store: Path) -> dict[str, str]:
    """Two trainings that differ in their seed, and one with another learning rate; ids by name."""
    del tracking_store
    return {
        "first": run_pipeline("first", "r1", {"seed": 0, "learning_rate": 0.01}, kid=0.1),
        "other": run_pipeline("other", "r2", {"seed": 0, "learning_rate": 0.02}, kid=0.3),
        "again": run_pipeline("again", "r1", {"seed": 1, "learning_rate": 0.01}, kid=0.2),
    }


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL))


def test_a_page_has_what_differs_and_one_row_for_trainings_that_differ_in_their_seed_alone(
    three: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    foundry("runs", "compare", "first", three["other"][:12], three["again"])
    path = Path(capsys.readouterr().out.strip())
    page = path.read_text()
    assert path == Path("data/comparison/runs.html").resolve()
    assert re.findall(
        r"<code>((?:train|evaluate)\.\w+)</code></td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", page
    ) == [
        ("train.learning_rate", "0.01", "0.02", "0.01"),
        ("train.seed", "0", "0", "1"),
    ]
    rows = dict(re.findall(r"<tr><td[^>]*>([^<]*)(?:<span[^<]*</span>)?</td><td class=\"number\">([\d.]+)", page))
    first, other, again = (f"{name} ({run_id[:7]})" for name, run_id in three.items())
    assert {name.strip(): float(kid) for name, kid in rows.items()} == {
        f"{first}, {again}": pytest.approx(0.15),
        other: pytest.approx(0.3),
        # Those of the first run.
        "real images": pytest.approx(0.1),
        "mixture of Gaussians": pytest.approx(0.1),
    }
    assert "mean of 2 seeds" in text_of(page)
    assert len(page) < 3_000_000


def test_a_long_name_is_whole_at_the_top_and_short_above_columns_pictures_and_curves(three: dict[str, str]) -> None:
    name = "A commit that says in a whole sentence what is new in its training"
    other = run_pipeline(name, "r3", {"seed": 0, "learning_rate": 0.03}, kid=0.3)
    foundry("runs", "compare", "first", other)
    page = Path("data/comparison/runs.html").read_text()
    assert three
    assert page.count(name) == 1
    assert f"A commit that says in a whole … ({other[:7]})" in page


def test_a_page_loads_nothing(three: dict[str, str]) -> None:
    foundry("runs", "compare", *three, "--out", "out")
    page = Path("out/runs.html").read_text()
    # Curves refer to their markers, which are in the page.
    assert all(source.startswith(("data:", "#")) for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to look at the page with")
def test_the_slider_shows_the_samples_of_a_step_and_the_box_their_difference(three: dict[str, str]) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the e2e extra")
    foundry("runs", "compare", *three, "--out", "out")
    asked: list[str] = []
    faults: list[str] = []
    with playwright.sync_playwright() as driver:
        # Root has no sandbox; the page is ours.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(Path("out/runs.html").resolve().as_uri())
        training = page.locator("section").first
        seen = training.locator("figure img[data-step]:visible")
        steps = "pictures => pictures.map(each => each.dataset.step)"
        assert seen.evaluate_all(steps) == ["6400"] * 3
        training.get_by_role("slider").focus()
        page.keyboard.press("ArrowLeft")
        assert seen.evaluate_all(steps) == ["640"] * 3
        assert training.locator("output").text_content() == "640 images"
        training.get_by_role("checkbox").check()
        over = training.locator("img.first")
        first = training.locator("figure").first.locator("img[data-step]:visible").get_attribute("src")
        # The second has the first's seeds, the third has others.
        assert [over.nth(place).is_visible() for place in range(3)] == [False, True, False]
        assert over.nth(1).get_attribute("src") == first
        # Both drew the same noise, so that nothing is left of it.
        stack = training.locator(".stack").nth(1)
        (Path("shot.png")).write_bytes(stack.screenshot())
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        # A word of a run's name fits into a line.
        assert min(page.locator("th, td").evaluate_all("cells => cells.map(each => each.clientWidth)")) > 100
        browser.close()
    # Without the edge, which has something of the page.
    assert np.asarray(Image.open("shot.png").convert("L"))[2:-2, 2:-2].max() <= 2
    assert faults == []
    assert all(url.startswith(("file:", "data:")) for url in asked)


def test_many_large_pictures_are_reduced_until_the_page_has_less_than_three_megabytes(tracking_store: Path) -> None:
    del tracking_store
    names = [f"run-{number}" for number in range(4)]
    for seed, name in enumerate(names):
        run_pipeline(name, name, {"seed": seed}, kid=0.1, side=600)
    foundry("runs", "compare", *names, "--out", "out")
    assert 1_000_000 < Path("out/runs.html").stat().st_size < 3_000_000


def test_a_stage_that_was_taken_from_the_cache_has_the_pictures_and_the_curve_of_the_run_that_made_it(
    three: dict[str, str],
) -> None:
    client, past = store.connect(), PastRuns()
    trained = past.makers(past.run(three["first"]))["train"]
    experiment = store.experiment_id(client)
    cached = client.create_run(experiment, run_name="cached", tags={SOURCE_TAG: "pipeline"}).info.run_id
    hit = {PARENT_TAG: cached, STAGE_TAG: "train", HIT_TAG: trained.info.run_id}
    client.create_run(experiment, run_name="train (cached)", tags=hit)
    foundry("runs", "compare", "cached", "other", "--out", "out")
    page = Path("out/runs.html").read_text()
    assert re.findall(r'alt="samples of cached \(\w+\) after (\d+) images"', page) == [str(step) for step in STEPS]


def test_one_run_or_an_unknown_one_is_refused_with_what_to_type(three: dict[str, str]) -> None:
    with pytest.raises(FoundryError, match=r"wants at least two pipelines \(got first"):
        foundry("runs", "compare", "first", three["first"])
    with pytest.raises(FoundryError, match=r"no run with this id or name; `foundry runs list`"):
        foundry("runs", "compare", "first", "nothing")


def test_an_evaluation_of_other_images_is_said_to_be_not_comparable(three: dict[str, str]) -> None:
    foundry("runs", "compare", *three, "--out", "same")
    assert "not comparable" not in Path("same/runs.html").read_text()
    evaluated = PastRuns().makers(PastRuns().run(three["other"]))["evaluate"]
    store.connect().set_tag(evaluated.info.run_id, "data.digest", "other")
    foundry("runs", "compare", *three, "--out", "other")
    assert "not comparable" in Path("other/runs.html").read_text()


def test_the_losses_of_a_student_are_said_to_be_its_teachers(three: dict[str, str]) -> None:
    student = run_pipeline("student", "r3", {"seed": 0, "learning_rate": 0.01}, kid=0.1)
    foundry("runs", "compare", *three, student, "--out", "out")
    page = text_of(Path("out/runs.html").read_text())
    assert f"student ({student[:7]}) is a student: its losses on held-out images are its teacher's." in page
    assert page.count("is a student") == 1


def test_the_interval_of_a_mean_is_students() -> None:
    # t of one degree of freedom at .975 is tan(.475 pi).
    found = mean_of([0.0, 2.0])
    half = np.tan(0.475 * np.pi)
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0 - half, 1.0 + half))


def test_a_name_comes_before_the_ids_that_begin_like_it(tracking_store: Path) -> None:
    del tracking_store
    other = run_pipeline("other", "other", {"seed": 0}, kid=0.1)
    wanted = run_pipeline(other[:3], "wanted", {"seed": 1}, kid=0.2)
    past = PastRuns()
    assert past.find(other[:3]).info.run_id == wanted
    assert past.find(other[:4]).info.run_id == other


def test_names_from_outside_cannot_start_a_tag(tracking_store: Path) -> None:
    del tracking_store
    for name in ("<script>alert(1)</script>", "b"):
        run_pipeline(name, name, {"seed": 0, "note": json.dumps("</td><img src=x>") + name}, kid=0.1)
    foundry("runs", "compare", "<script>alert(1)</script>", "b", "--out", "out")
    page = Path("out/runs.html").read_text()
    assert "<script>alert" not in page
    assert "<img src=x>" not in page
