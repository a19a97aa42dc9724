"""What a student is trained on does not depend on the number of processes, if its batches have fixed parts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artefacts.model import load_model
from pipeline.diffusion.guidance_interval import ALL_STEPS
from pipeline.training.distributed import SINGLE, Workers
from pipeline.training.trajectories import Teacher, Trajectories


def trajectories(folder: Path, workers: Workers = SINGLE) -> Trajectories:
    model = load_model(folder)
    teacher = Teacher(
        model=model,
        num_steps=4,
        guidance_scale=1.5,
        guidance_interval=ALL_STEPS,
        student_steps=2,
        device=torch.device("cpu"),
    )
    return Trajectories(
        teacher,
        load_model(folder).network,
        np.array([0, 1, 1]),
        seed=3,
        batch_size=16,
        label_dropout=0.2,
        micro_batch_size=6,
        workers=workers,
    )


@pytest.mark.parametrize("size", [2, 3])
def test_the_examples_of_several_processes_are_those_of_one_bit_for_bit(small_model_folder: Path, size: int) -> None:
    # Of step 15 the window has moved on by a block.
    for step in (0, 15):
        whole = trajectories(small_model_folder).batch(step)
        own = [trajectories(small_model_folder, Workers(rank, size)).batch(step) for rank in range(size)]
        for name in ("x0", "labels", "t", "eps"):
            assert torch.equal(torch.cat([getattr(batch, name) for batch in own]), getattr(whole, name)), name
        assert {batch.dropout_seed for batch in own} == {whole.dropout_seed}
