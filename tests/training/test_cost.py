"""The cost of a training is known before, and is what its steps then take."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.diffusion.unet import UNet, UNetConfig
from pipeline.params import load_params
from pipeline.training.cost import BASE_MIB, estimate, memory, network_size

COMMITTED = load_params(Path(__file__).parents[1] / "params.yaml").train
SHAPE = {"image_size": 16, "channels": 3, "num_classes": 4}


def test_weights_and_arithmetic_are_counted_as_a_convolution_needs_them() -> None:
    size = network_size(UNetConfig(widths=(8,), num_blocks=1), **SHAPE)
    network = UNet(UNetConfig(widths=(8,), num_blocks=1), **SHAPE)
    assert size.num_weights == sum(weight.numel() for weight in network.parameters())
    # On the one level of 8x8 positions: a convolution of c_in to c_out channels with a window of k.
    blocks = [(8, 8), (8, 8), (16, 8), (16, 8)]
    convolutions = [(12, 8, 3), (8, 12, 3)] + [pair for a, b in blocks for pair in [(a, b, 3), (b, b, 3)]]
    convolutions += [(16, 8, 1)] * 2
    linear = 64 * 32 + 32 * 32 + 4 * 32 * 16
    assert size.multiply_adds == sum(a * b * k * k * 64 for a, b, k in convolutions) + linear


def test_rows_within_a_limit_are_the_most_that_keep_it() -> None:
    size = network_size(UNetConfig(), **SHAPE)
    rows = size.rows_within(1000)
    assert size.step_mib(rows) <= 1000 < size.step_mib(rows + 1)
    assert size.rows_within(BASE_MIB) == 0


def test_micro_batches_need_the_memory_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    whole = memory(COMMITTED, **SHAPE)
    parts = memory(COMMITTED.model_copy(update={"micro_batch_size": 4}), **SHAPE)
    assert whole.process_mib == whole.network.step_mib(COMMITTED.batch_size // 2)
    assert parts.process_mib == whole.network.step_mib(4)


def test_a_large_image_is_counted_without_being_computed() -> None:
    config = UNetConfig(patch_size=1, widths=(256, 512, 1024), num_blocks=4)
    size = network_size(config, image_size=256, channels=3, num_classes=0)
    assert size.step_mib(96) > 500_000


MEASURE = """
import sys
from pathlib import Path
from pipeline.params import TrainParams
from pipeline.training import pace
from pipeline.training.distributed import SINGLE
params = TrainParams.model_validate_json(sys.argv[1], strict=True)
steps = pace._training(params, params.batch_size, SINGLE, image_size=32, channels=3, num_classes=4).steps()
next(steps), next(steps)
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024)
"""


@pytest.mark.trains
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's record of a process")
@pytest.mark.parametrize(
    ("network", "batch_size"),
    [(UNetConfig(widths=(32, 64)), 64), (UNetConfig(widths=(64, 128), attention=True), 24)],
)
def test_a_step_needs_the_memory_that_was_estimated(network: UNetConfig, batch_size: int) -> None:
    params = COMMITTED.model_copy(update={"network": network, "batch_size": batch_size})
    command = [sys.executable, "-c", MEASURE, params.model_dump_json()]
    peak = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    size = network_size(network, image_size=32, channels=3, num_classes=4)
    assert size.step_mib(batch_size) == pytest.approx(peak, rel=0.2)


@pytest.mark.trains
def test_the_steps_of_the_network_itself_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "2")
    params = COMMITTED.model_copy(
        update={"network": UNetConfig(widths=(8,), num_blocks=1), "batch_size": 16, "num_images": 160}
    )
    cost = estimate(params, **SHAPE)
    assert (cost.num_processes, cost.num_steps) == (2, 10)
    assert 0 < cost.step_sec < 5
    assert cost.seconds == pytest.approx(10 * cost.step_sec)
    assert cost.images_per_sec == pytest.approx(16 / cost.step_sec)
    assert cost.all_mib > 2 * cost.process_mib
