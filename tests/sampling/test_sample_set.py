"""Sets of images: whoever draws which shard, when and how often, the bytes are the same."""

import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artefacts.model import load_model
from pipeline.errors import CheckFailedError, FoundryError
from pipeline.evaluation.samples import Samples, samples_file
from pipeline.sampling.drawing import Drawing
from pipeline.sampling.place import Place
from pipeline.sampling.sample_set import SampleSet
from tests.command_line import foundry
from tests.processes import start, wait_for

SET = ("--num-images", 70, "--shard-size", 20, "--seed", 3)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def drawn(small_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set, drawn by one process."""
    out = tmp_path_factory.mktemp("drawn") / "set"
    foundry("sample", "--model", small_model_folder, "--out", out, *SET)
    return out


def sample_set(model: Path, out: Path) -> SampleSet:
    drawing = Drawing(
        model=load_model(model),
        seed=3,
        class_label=None,
        sampler="dpmpp_2m",
        num_steps=4,
        eta=0.0,
        guidance_scale=1.0,
        guidance_interval=(0.0, 1.0),
    )
    return SampleSet(drawing, 70, 20, Place(str(out)))


def test_a_set_holds_the_images_of_one_draw(drawn: Path, small_model_folder: Path, tmp_path: Path) -> None:
    foundry("sample", "--model", small_model_folder, "--out", tmp_path / "all.npz", "--num-images", 70, "--seed", 3)
    shards = [np.load(path) for path in sorted(drawn.glob("*.npz"))]
    assert [len(shard["images"]) for shard in shards] == [20, 20, 20, 10]
    with np.load(tmp_path / "all.npz") as together:
        for name in ("images", "labels", "seeds"):
            assert np.array_equal(np.concatenate([shard[name] for shard in shards]), together[name])


def test_sha256sum_checks_a_set(drawn: Path) -> None:
    said = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=drawn, capture_output=True, text=True, check=True)
    assert re.findall(r"^(.+): OK$", said.stdout, re.MULTILINE) == [
        "set.json",
        *sorted(p.name for p in drawn.glob("*.npz")),
    ]
    assert {path.name for path in drawn.iterdir()} == {
        *("set.json", "SHA256SUMS"),
        *(f"samples-00000{shard}.npz{suffix}" for shard in range(4) for suffix in ("", ".sha256")),
    }


def test_any_order_any_repetition_and_any_number_of_cores_give_the_same_bytes(
    drawn: Path, small_model_folder: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    samples = sample_set(small_model_folder, tmp_path / "set")
    samples.open()
    try:
        for threads, shard in ((1, 3), (3, 1), (2, 3), (1, 0), (3, 2), (2, 0)):
            torch.set_num_threads(threads)
            samples.draw(shard, lambda _: None)
    finally:
        torch.set_num_threads(before)
    samples.finish()
    assert files_of(tmp_path / "set") == files_of(drawn)


def test_begun_shards_are_the_last_choice_and_are_drawn_all_the_same(
    drawn: Path, small_model_folder: Path, tmp_path: Path
) -> None:
    samples = sample_set(small_model_folder, tmp_path / "set")
    for shard in (0, 2):
        # As another process leaves them, which draws them now or was killed.
        samples.place.write(f"samples-00000{shard}.npz.begun", b"")
    missing = samples.missing()
    assert (set(missing[:2]), set(missing[2:])) == ({1, 3}, {0, 2})
    foundry("sample", "--model", small_model_folder, "--out", tmp_path / "set", *SET)
    assert files_of(tmp_path / "set") == files_of(drawn)


def test_processes_draw_a_set_together_and_one_that_is_killed_is_not_missed(
    small_model_folder: Path, tmp_path: Path, root: Path
) -> None:
    options = ("--model", str(small_model_folder), "--num-images", "2000", "--shard-size", "50", "--steps", "20")
    command = [sys.executable, "-m", "pipeline", "sample", *options, "--out", str(tmp_path / "together")]

    def draw() -> "subprocess.Popen[str]":
        return start(command, cwd=root, stdout=subprocess.DEVNULL)

    def has_shards(number: int) -> bool:
        return len(list((tmp_path / "together").glob("*.sha256"))) >= number

    killed = draw()
    wait_for(lambda: has_shards(3), killed)
    killed.send_signal(signal.SIGSTOP)
    other = draw()
    wait_for(lambda: has_shards(6), other)
    killed.send_signal(signal.SIGCONT)
    wait_for(lambda: has_shards(12), other)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert other.wait() == 0
    foundry("sample", *options, "--out", tmp_path / "alone")
    # A temporary file of the killed process may be left.
    together = {name: content for name, content in files_of(tmp_path / "together").items() if not name.startswith(".")}
    assert together == files_of(tmp_path / "alone")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("--seed", 4), "set.json: seed is 3, this command has 4"),
        (("--num-images", 71), "set.json: num_images is 70, this command has 71"),
        (("--class-label", "dog"), "set.json: class_label is None, this command has 1"),
        (("--guidance-interval", 0.2, 0.8), "set.json: guidance_interval is [0.0, 1.0], this command has [0.2, 0.8]"),
    ],
)
def test_another_set_is_not_mixed_into_one(
    drawn: Path, small_model_folder: Path, changed: tuple[object, ...], said: str
) -> None:
    before = files_of(drawn)
    with pytest.raises(FoundryError, match=re.escape(said)):
        foundry("sample", "--model", small_model_folder, "--out", drawn, *SET, *changed)
    assert files_of(drawn) == before


@pytest.mark.parametrize(
    "names",
    [("train-images-idx3-ubyte", "t10k-images-idx3-ubyte", ".gitignore", "a/b.png"), ("samples-000000.npz.sha256",)],
)
def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(
    small_model_folder: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).write_text("a file of somebody")
    found = ", ".join(sorted(name.partition("/")[0] for name in names)[:3])
    with pytest.raises(
        FoundryError, match=rf"raw: is not empty and has no set\.json, .*\(found {re.escape(found)}.*--out"
    ):
        foundry("sample", "--model", small_model_folder, "--out", tmp_path / "raw", *SET)
    files = {path.relative_to(tmp_path / "raw").as_posix() for path in (tmp_path / "raw").rglob("*") if path.is_file()}
    assert files == set(names)


def test_a_machine_whose_last_bits_may_differ_does_not_join(drawn: Path, small_model_folder: Path) -> None:
    path = drawn / "set.json"
    own = path.read_text()
    document = json.loads(own)
    document["arithmetic"]["torch"] = "1.0"
    try:
        path.write_text(json.dumps(document))
        with pytest.raises(FoundryError, match=r"set.json: torch is '1.0', this command has '.+machines of one kind"):
            foundry("sample", "--model", small_model_folder, "--out", drawn, *SET)
        path.write_text("[]")
        with pytest.raises(FoundryError, match="set.json: not the description of a set"):
            foundry("sample", "--model", small_model_folder, "--out", drawn, *SET)
    finally:
        path.write_text(own)


def test_verifying_finds_a_damaged_shard_and_an_image_that_the_model_does_not_draw(
    small_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("sample", "--model", small_model_folder, "--out", tmp_path / "set", *SET, "--verify")
    foundry(*command)
    assert "every shard has its digest, and images drawn again are the same" in capsys.readouterr().out

    damaged, forged = (tmp_path / "set" / f"samples-00000{shard}.npz" for shard in (1, 3))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with np.load(forged) as arrays:
        images = arrays["images"]
        images[7, 2, 2] ^= 1
        content = samples_file(Samples(images, arrays["labels"], arrays["seeds"]))
    forged.write_bytes(content)
    forged.with_name("samples-000003.npz.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {forged.name}\n")
    with pytest.raises(CheckFailedError) as raised:
        foundry(*command)
    first, second = str(raised.value).splitlines()
    assert first.endswith(
        "set/samples-000001.npz: does not have the digest in samples-000001.npz.sha256; "
        "delete samples-000001.npz.sha256, and the same command draws the shard again"
    )
    assert second.endswith("set/samples-000003.npz: image 7 has other pixels when it is drawn again")
    for shard in (1, 3):
        (tmp_path / "set" / f"samples-00000{shard}.npz.sha256").unlink()
    foundry(*command)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--verify",), "--verify: compares the shards of a set; give --shard-size too"),
        (
            ("--out", "s3://bucket/set"),
            "--out: only a set is written to a URL (got s3://bucket/set); give --shard-size",
        ),
        (("--num-images", 10**7), "--num-images: at most 1000000 are drawn at once; give --shard-size too"),
        (("--shard-size", 10, "--out", "nosuch://set"), "nosuch://set: Protocol not known: nosuch"),
    ],
)
def test_what_only_a_set_can_do_is_refused_without_shards(
    small_model_folder: Path, options: tuple[object, ...], said: str
) -> None:
    with pytest.raises(FoundryError, match=re.escape(said)):
        foundry("sample", "--model", small_model_folder, "--num-images", 4, "--out", "drawn", *options)
