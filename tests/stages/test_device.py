import platform
from pathlib import Path

import pytest
import torch

from pipeline.device import Device, best_device


@pytest.mark.skipif(
    torch.cuda.is_available() or platform.system() != "Linux", reason="reads the features of a CPU from /proc"
)
def test_a_cpu_trains_in_bfloat16_if_and_only_if_it_has_amx() -> None:
    has_amx = " amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert best_device().autocast == has_amx
    assert best_device().precision == ("bfloat16" if has_amx else "float32")


def test_the_precision_is_the_data_type_of_autocast() -> None:
    cpu = torch.device("cpu")
    assert Device(cpu, autocast=True, compile=False).precision == "bfloat16"
    assert Device(cpu, autocast=False, compile=False).precision == "float32"
