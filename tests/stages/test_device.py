import platform
from pathlib import Path

import pytest
import torch

from pipeline.device import Device, best_device


@pytest.mark.skipif(torch.cuda.is_available() or platform.system() != "Linux", reason="about CPUs, as Linux lists them")
def test_a_cpu_trains_in_bfloat16_where_linux_says_that_it_has_matrix_units() -> None:
    has_units = " amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    assert best_device().autocast == has_units
    assert best_device().precision == ("bfloat16" if has_units else "float32")


def test_the_precision_is_that_of_products() -> None:
    cpu = torch.device("cpu")
    assert Device(cpu, autocast=True, compile=False).precision == "bfloat16"
    assert Device(cpu, autocast=False, compile=False).precision == "float32"
