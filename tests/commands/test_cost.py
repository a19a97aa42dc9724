"""`foundry cost` in a folder with nothing but params.yaml."""

import re
from pathlib import Path

import pytest
import yaml

from pipeline.errors import FoundryError
from tests.command_line import foundry

ROOT = Path(__file__).parents[2]
SMALL = {"widths": [8], "num_blocks": 1, "patch_size": 2}


def _write_params(folder: Path, image_size: object) -> None:
    document = yaml.safe_load((ROOT / "tests" / "params.yaml").read_text())
    document["prepare"]["image_size"] = image_size
    document["train"] |= {"network": document["train"]["network"] | SMALL, "batch_size": 8, "num_images": 80_000}
    (folder / "params.yaml").write_text(yaml.safe_dump(document))


@pytest.mark.trains
def test_the_cost_of_the_training_is_shown_before_there_are_images(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_params(workspace, [8, 12])
    foundry("cost")
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["network", "memory", "step", "training"]
    assert re.match(r"[\d,]+ MiB in each of 1 processes, [\d,]+ MiB in all; [\d,]+ MiB are free", lines["memory"])
    images_per_sec = float(lines["step"].split()[-2].replace(",", ""))
    minutes = float(lines["training"].split()[3])
    assert minutes == pytest.approx(80_000 / images_per_sec / 60, rel=0.1, abs=0.1)


def test_a_size_that_the_network_cannot_take_is_refused_with_the_size_it_wants(workspace: Path) -> None:
    _write_params(workspace, 9)
    with pytest.raises(FoundryError, match="image_size: should be a multiple of 2, "):
        foundry("cost")
