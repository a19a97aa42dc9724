from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.artefacts.model import load_model
from service.engine.cuda_graphs import GraphDenoiser
from service.engine.request import SamplingParams
from service.engine.stepper import Stepper

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

MOST_ROWS = 9


def _inputs(num_labels: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Twice each number of rows, so that each recording is played with other inputs than it was made with."""
    generator = torch.Generator().manual_seed(0)
    for rows in (*range(1, MOST_ROWS + 1), *range(MOST_ROWS, 0, -1)):
        x = torch.randn(rows, 1, 8, 8, generator=generator)
        t, labels = (torch.randint(most, (rows,), generator=generator) for most in (100, num_labels))
        yield x.cuda(), t.cuda(), labels.cuda()


@torch.inference_mode()
def test_a_recorded_call_has_the_bits_of_the_call_itself_with_any_number_of_rows(model_folder: Path) -> None:
    denoiser = load_model(model_folder).denoiser(torch.device("cuda"))
    recorded = GraphDenoiser(denoiser)
    # Compared at the end: an output is not overwritten by later calls.
    outputs = [(recorded(*inputs), denoiser(*inputs)) for inputs in _inputs(num_labels=4)]
    assert all(torch.equal(found, wanted) for found, wanted in outputs)


def test_a_picture_has_the_same_bits_with_recorded_calls_and_without(model_folder: Path) -> None:
    recorded, plain = (
        Stepper.load(model_folder, rows=8, slots=8, max_mib=1, threads=1, backend=name) for name in ("auto", "torch")
    )
    params = SamplingParams(seed=7, class_label=1, sampler="ddpm", num_steps=9, guidance_scale=2.0)
    assert recorded.draw(params).tobytes() == plain.draw(params).tobytes()
    assert recorded.repro_id != plain.repro_id
