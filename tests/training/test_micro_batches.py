"""Micro-batches: every row is in exactly one, and the sum has the same bits for any number of processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import FoundryError
from pipeline.training.distributed import Workers, num_workers
from pipeline.training.micro_batches import MicroBatches, PairwiseSum, waiting_after

NUM_PARTS = 11
NUMBERS = np.random.default_rng(0).standard_normal((NUM_PARTS, 1000)).astype(np.float32)
"""Their sum in float32 depends on the order."""

WORKER = """
import sys
import numpy as np, torch
from pipeline.training.distributed import launch_workers
from pipeline.training.micro_batches import MicroBatches, reproducible_sum
numbers = np.random.default_rng(0).standard_normal((11, 1000)).astype(np.float32)
with launch_workers(11, 1) as workers:
    for _ in range(2):
        parts = MicroBatches.of(workers, 11, 1)
        own = torch.from_numpy(numbers[parts.own].copy())
        lists = ([part[:1].reshape(()).clone(), part[1:].reshape(27, 37).t()] for part in own)
        first, rest = reproducible_sum(workers, parts.first, lists)
        found = torch.cat([first.reshape(1), rest.t().flatten()])
    if workers.is_first:
        print(found.numpy().tobytes().hex(), torch.get_num_threads())
"""


def pairwise(numbers: np.ndarray) -> np.ndarray:
    """The tournament, written as the recursion that it is: the largest power of two below goes left."""
    if len(numbers) == 1:
        return np.asarray(numbers[0])
    left = 1 << (len(numbers) - 1).bit_length() - 1
    return pairwise(numbers[:left]) + pairwise(numbers[left:])


@given(batch_size=st.integers(1, 60), rows=st.integers(1, 60), size=st.integers(1, 8))
def test_every_row_is_in_one_part_and_parts_are_those_of_a_single_process(
    batch_size: int, rows: int, size: int
) -> None:
    single = MicroBatches.of(Workers(), batch_size, rows)
    found = []
    for rank in range(size):
        parts = MicroBatches.of(Workers(rank, size), batch_size, rows)
        found += [
            (number, parts.own.start + part.start, parts.own.start + part.stop)
            for number, part in enumerate(parts.rows, parts.first)
        ]
    assert found == [(number, part.start, part.stop) for number, part in enumerate(single.rows)]
    assert [row for _, start, stop in found for row in range(start, stop)] == list(range(batch_size))
    assert max(stop - start for _, start, stop in found) <= rows


@given(count=st.integers(1, 70))
def test_sums_are_made_in_pairs_and_few_wait(count: int) -> None:
    total = PairwiseSum()
    for place in range(count):
        total.add(0, place, [torch.tensor(float(place)), torch.ones(2)])
        assert [each[:2] for each in total.waiting] == list(waiting_after(place + 1))
        assert len(total.waiting) <= (place + 1).bit_length()
    number, ones = total.total()
    assert (float(number), ones.tolist()) == (count * (count - 1) / 2, [count, count])


def test_any_number_of_processes_makes_the_sum_of_the_tournament(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    wanted = pairwise(NUMBERS).tobytes().hex()
    assert wanted != NUMBERS.sum(axis=0).tobytes().hex()
    for size in (1, 2, 3):
        environment = os.environ | {"NPROC": str(size), "PYTHONPATH": str(root)}
        command = [sys.executable, str(script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr
        found, threads = done.stdout.split()
        assert found == wanted, size
        # The machine's, not those that `size` processes leave for each.
        assert int(threads) == len(os.sched_getaffinity(0))


def test_a_process_without_a_part_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC", "4")
    with pytest.raises(
        FoundryError, match=r"3 micro-batches of 32 images are too few for 4 processes; set a .+, or NPROC=3"
    ):
        num_workers(96, 32)
    assert num_workers(96, 24) == 4
    monkeypatch.delenv("NPROC")
    assert num_workers(96, 96) == 1
