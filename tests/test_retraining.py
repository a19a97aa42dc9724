"""The whole loop on one machine, with real tools on small sets: other data, the decision, rollback, the same picture.

tests/test_two_runners.py has the loop on GitHub's runners.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tests.project import CHANGES, check_out
from tests.servers import Servers
from tests.service.server import serving

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
# Networks of a few thousand weights are over before a clock can tell them apart on a busy machine.
GATE = {"model_name": "digits", "max_latency_ratio": 5.0, "max_memory_ratio": 2.0, "max_class_total_variation": 0.3}
SMALL = CHANGES["prepare"] | {"image_size": 8, "channels": 1}
BRIEF = {
    "num_samples": 150,
    "num_steps": 4,
    "baseline_components": 5,
    "likelihood_num_images": 10,
    "tuning_rows": 0,
    "compared_rows": [8],
}


class Loop:
    """A project that is retrained; without servers its tracking store is a file."""

    def __init__(self, folder: Path, servers: Servers | None, **changes: dict[str, Any]) -> None:
        self.project = check_out(folder)
        if servers:
            servers.forget()
            self.project.environment |= servers.environment
        self.folder = folder
        (folder / ".venv").mkdir()
        (folder / ".venv" / "installed").touch()
        params = yaml.safe_load((folder / "params.yaml").read_text())
        for section, values in {**CHANGES, "evaluate": BRIEF, "register": GATE, "prepare": SMALL}.items():
            params[section] |= values
        for section, values in changes.items():
            params[section] |= values
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        self.project.run("git", "init", "-q", "-b", "main")

    @property
    def raw(self) -> Path:
        return self.folder / "data" / "raw"

    def decision(self) -> Any:
        return json.loads((self.folder / "data" / "registration" / "decision.json").read_text())

    def retrain(self, change: str, *settings: str) -> Any:
        """The decision about a model of the present data."""
        self.project.run("dvc", "add", "-q", "data/raw")
        self.project.commit(change)
        self.project.run("make", "retrain", f"SET={' '.join(settings)}")
        assert (self.folder / "data" / "registration" / "report.html").exists()
        return self.decision()

    def promote(self, version: str) -> None:
        """Make a version champion that the gate has left to a person."""
        self.project.run("python", "-m", "pipeline", "model", "promote", version, "--reason", "a start")

    def history(self) -> list[tuple[str, str]]:
        lines = (self.folder / "data" / "registration" / "promotions.jsonl").read_text().splitlines()
        return [(entry["event"], entry["version"]) for entry in map(json.loads, lines)]

    def champion(self) -> str:
        """The folder that a service of it has."""
        return self.project.run("python", "-m", "pipeline", "model", "package", "--resolve").splitlines()[0]

    def served_picture(self) -> Path:
        """A picture that a service of the champion has drawn."""
        picture = self.folder / "picture.png"
        with serving(Path(self.champion()), self.folder / "served") as server:
            answer = server.post(class_label=3, seed=11, steps=6, response_format="png")
            assert answer.status_code == 200, answer.text
            picture.write_bytes(answer.content)
        return picture

    def champions_pictures(self) -> NDArray[np.uint8]:
        options = ("--num-images", "3", "--seed", "7", "--out", "drawn.npz")
        self.project.run("python", "-m", "pipeline", "sample", "--model", "models:/digits@champion", *options)
        with np.load(self.folder / "drawn.npz") as drawn:
            return np.asarray(drawn["images"])


def failed(decision: Any) -> list[str]:
    return [rule["name"] for rule in decision["rules"] if not rule["passed"]]


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_model_of_more_data_wins_one_without_a_class_loses_and_a_rollback_brings_the_old_pictures_back(
    tmp_path: Path, servers: Servers, digits: Digits
) -> None:
    loop, (images, labels) = Loop(tmp_path, servers), digits
    loop.raw.mkdir(parents=True)

    np.savez(loop.raw / "digits.npz", images=images[:400], labels=labels[:400])
    first = loop.retrain("Some digits", "train.num_images=640")
    assert (first["decision"], first["champion"]) == ("undecided", None)
    assert "better_than_mixture" in failed(first)
    loop.promote("1")
    old = loop.champions_pictures()

    np.savez(loop.raw / "digits.npz", images=images, labels=labels)
    better = loop.retrain("More digits", "train.num_images=25600")
    assert (better["decision"], better["champion"]) == ("accept", "1"), failed(better)
    assert better["comparison"]["data_is_new"]
    assert better["comparison"]["kid_difference"]["high"] < 0
    assert not np.array_equal(loop.champions_pictures(), old)

    np.savez(loop.raw / "digits.npz", images=images[labels < 9], labels=labels[labels < 9])
    poorer = loop.retrain("No nines")
    assert (poorer["decision"], poorer["champion"]) == ("reject", "2")
    assert "classes_are_kept" in failed(poorer)

    assert "version 1 is champion again" in loop.project.run("make", "rollback", "REASON=the old ones were nicer")
    assert np.array_equal(loop.champions_pictures(), old)
    assert "the old ones were nicer" in loop.project.run("make", "history")
    assert loop.history() == [("undecided", "1"), ("promote", "1"), ("accept", "2"), ("reject", "3")]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_bad_data_never_reach_the_champion_and_good_ones_do(tmp_path: Path, servers: Servers, digits: Digits) -> None:
    loop = Loop(tmp_path, servers, prepare={"source": "images", "labelled": True, "max_class_ratio": 3.0})
    images, labels = digits[0][:1000], digits[1][:1000]
    write_images(loop.raw, images, labels)
    # So short a training shows no classes: a person takes it for a start.
    assert loop.retrain("A thousand digits", "train.num_images=2560")["decision"] == "undecided"
    loop.promote("1")
    old, picture = loop.champions_pictures(), loop.served_picture()

    for path in (loop.raw / "9").iterdir():
        path.unlink()
    (loop.raw / "9").rmdir()
    dropped = loop.retrain("A class is lost", "train.num_images=12800")
    assert dropped["decision"] == "reject"
    assert "classes_are_kept" in failed(dropped)
    write_images(loop.raw, images, labels)

    for number in range(500):
        whole = (loop.raw / str(number % 10) / f"{np.flatnonzero(labels == number % 10)[0]:05}.png").read_bytes()
        (loop.raw / str(number % 10) / f"broken-{number:03}.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssertionError, match="broken"):
        loop.retrain("Half of each file is missing")
    checked = json.loads((loop.folder / "data" / "prepared" / "validation.json").read_text())
    assert checked["counts"]["quarantined"] == 500
    assert np.array_equal(loop.champions_pictures(), old)
    for path in loop.raw.rglob("broken-*.png"):
        path.unlink()

    write_images(loop.raw, *like(images, labels, 5000), prefix="new-")
    good = loop.retrain("Five thousand more", "train.num_images=25600")
    assert good["decision"] == "accept", failed(good)
    assert good["comparison"]["data_is_new"]
    with pytest.raises(AssertionError, match="the picture was drawn by"):
        loop.project.run("python", "-m", "pipeline", "replay", str(picture), "--model", loop.champion())

    loop.project.run("make", "rollback", "REASON=a trial")
    assert np.array_equal(loop.champions_pictures(), old)
    said = loop.project.run("python", "-m", "pipeline", "replay", str(picture), "--model", loop.champion())
    assert "every pixel is the same" in said
    assert "digits version 1" in loop.project.run("python", "-m", "pipeline", "model", "trace", str(picture))


def write_images(raw: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], prefix: str = "") -> None:
    """A PNG an image, in a folder a class."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = raw / str(label) / f"{prefix}{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # A link to DVC's cache may stand there.
        path.unlink(missing_ok=True)
        Image.fromarray(image).save(path)


def like(images: NDArray[np.uint8], labels: NDArray[np.int64], count: int) -> Digits:
    """New digits: the old ones, turned a little."""
    random = np.random.default_rng(0)
    rows = random.integers(len(images), size=count)
    turned = [ndimage.rotate(images[row], random.uniform(-12, 12), reshape=False, order=1) for row in rows]
    return np.stack(turned), labels[rows]
