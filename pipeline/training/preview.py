"""Previews of a training in progress: sample grids of the averaged network, and its error on held-out images."""

from functools import cached_property

import torch
from PIL.Image import Image
from torch import Tensor

from pipeline.artefacts.dataset import Split
from pipeline.artefacts.model import Description, Model, build_network
from pipeline.artefacts.subset import evenly_spaced
from pipeline.diffusion.images import to_unit_range
from pipeline.diffusion.seeds import image_seed
from pipeline.inference.cores import denoiser_here
from pipeline.inference.draw import draw
from pipeline.inference.grids import grid_image
from pipeline.inference.losses import level_table, noise_levels, squared_errors
from pipeline.training.loop import Training
from pipeline.training.overfitting import HeldOutError
from pipeline.training.trajectories import FIRST_INDEX, Teacher

NUM_IMAGES, NUM_STEPS = 64, 10
"""Images of a grid and sampling steps for them: few, since the other processes wait."""
EARLY_PERCENT = (1, 2, 5, 10)
"""Shares of the training after which additional grids are drawn: early images change most."""
NUM_HELD_OUT, NUM_LEVELS = 64, 6


class Preview:
    """Grids and losses with the same noise and the same held-out images every time, so that they can be compared."""

    def __init__(self, training: Training, description: Description, held_out: Split) -> None:
        self._training, self._description = training, description
        self._held_out = evenly_spaced(held_out, NUM_HELD_OUT)

    def grid(self) -> Image:
        """A grid with equally many images of every class, or of evenly spaced classes if there are more than images."""
        labels, columns = grid_layout(self._description.data.num_classes)
        seeds = [image_seed(self._training.params.seed, i) for i in range(len(labels) if labels else NUM_IMAGES)]
        num_steps = min(NUM_STEPS, self._description.sampling.num_steps)
        return grid_image(draw(self._averaged(), seeds, labels, num_steps=num_steps), columns)

    def held_out_errors(self) -> tuple[HeldOutError, dict[str, float]]:
        """The error of x0 at `NUM_LEVELS` noise levels: by image, and the means by metric name."""
        training, table = self._training, self._training.schedule_table
        device = training.device.device
        levels = noise_levels(table.schedule, NUM_LEVELS)
        denoiser = denoiser_here(self._averaged())
        errors = squared_errors(
            denoiser, self._held_out, table.schedule, levels, seed=training.params.seed, device=device
        )
        means = level_table(errors, table, levels)
        relative = errors / means["linear_denoiser_mse"].to_numpy()[:, None]
        figures = {
            "train/held_out_mse": float(means["held_out_mse"].mean()),
            "train/linear_denoiser_mse": float(means["linear_denoiser_mse"].mean()),
        }
        figures |= {f"train/held_out_mse_t{t:04d}": mse for t, mse in zip(levels, means["held_out_mse"], strict=True)}
        return HeldOutError(training.step, relative.mean(axis=0)), figures

    def _averaged(self) -> Model:
        """A model with the present weights of the first EMA track."""
        training = self._training
        network = build_network(self._description, seed=0, num_timesteps=training.network.num_timesteps)
        network.load_state_dict(training.ema.tracks[0])
        network.to(training.device.device).eval().requires_grad_(requires_grad=False)
        return Model(self._description, network, training.schedule_table.schedule, digest="")


def grid_steps(num_steps: int, num_grids: int) -> frozenset[int]:
    """The steps after which a grid is drawn: the ends of `num_grids` equal parts and `EARLY_PERCENT`; none for 0."""
    if num_grids == 0:
        return frozenset()
    parts = [*((percent, 100) for percent in EARLY_PERCENT), *((part, num_grids) for part in range(1, num_grids + 1))]
    return frozenset(-(-part * num_steps // whole) for part, whole in parts)


class StudentPreview(Preview):
    """Grids of a student, and how far its images are from its teacher's."""

    def __init__(self, training: Training, description: Description, teacher: Teacher) -> None:
        self._training, self._description, self._teacher = training, description, teacher
        self._seeds = [image_seed(training.params.seed, FIRST_INDEX - 1 - i) for i in range(NUM_IMAGES)]
        classes = description.data.num_classes
        self._labels = [i % classes for i in range(NUM_IMAGES)] if classes else None

    def held_out_errors(self) -> tuple[HeldOutError, dict[str, float]]:
        """The squared difference from the teacher's images of the same seeds, which no training trajectory uses."""
        drawn = torch.from_numpy(draw(self._averaged(), self._seeds, self._labels)).movedim(-1, 1)
        difference = to_unit_range(drawn) - self._teachers.cpu()
        by_image = difference.square().flatten(1).mean(dim=1).double()
        figures = {"distil/rms_to_teacher": float(by_image.mean().sqrt())}
        return HeldOutError(self._training.step, by_image.numpy()), figures

    @cached_property
    def _teachers(self) -> Tensor:
        labels = None if self._labels is None else torch.tensor(self._labels, device=self._teacher.device)
        return self._teacher.states(self._seeds, labels)[:, -1]


def grid_layout(num_classes: int) -> tuple[list[int] | None, int | None]:
    """The class of each image of a grid, and the number of columns (None: about as many as rows)."""
    if num_classes == 0:
        return None, None
    num_shown = min(num_classes, NUM_IMAGES)
    per_class = NUM_IMAGES // num_shown
    labels = [row * num_classes // num_shown for row in range(num_shown) for _ in range(per_class)]
    # One image per class: a row per class would make the grid one image wide.
    return labels, per_class if per_class > 1 else None
