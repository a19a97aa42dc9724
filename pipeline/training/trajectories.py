"""The batches that a student is trained on: states on its own trajectories, with targets that lead to its teacher's.

Trajectory n starts from the noise of its own seed. The teacher draws it in many steps, with guidance, and its states at
the student's times are kept. The student reaches each of these times by its own steps, with its current weights, and
its target is the denoised image that leads from there to the teacher's next state: so it learns to correct its own
errors.

A window of trajectories moves along with the training. A batch is a function of its number and of the weights before
it, so a training that resumes draws the trajectories of its window again, and nothing has to be saved.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.artefacts.model import Model, plan_for
from pipeline.diffusion.denoiser import NetworkDenoiser
from pipeline.diffusion.distillation import answer, noise_in, shared_places
from pipeline.diffusion.guidance_interval import Interval
from pipeline.diffusion.sampling import SamplerPlan, make_plan, reverse_steps, step
from pipeline.diffusion.seeds import image_generator, image_seed, normal_rows
from pipeline.training.batches import Batch
from pipeline.training.distributed import SINGLE, Workers
from pipeline.training.micro_batches import MicroBatches

FIRST_INDEX = 2**40
"""First index of the trajectories' seeds, above those of any images that a user or an evaluation draws with the same seed."""
WINDOW, STEPS_PER_BLOCK = 8, 14
"""Blocks in the window, each with one trajectory per row of a batch, and steps from one new block to the next. So each
trajectory is trained on 14 times on average, and drawing it costs 14 rows of network calls (10 steps, four of them guided)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A model that draws trajectories."""

    model: Model
    num_steps: int
    guidance_scale: float
    guidance_interval: Interval
    student_steps: int
    device: torch.device

    @property
    def plan(self) -> SamplerPlan:
        return plan_for(
            self.model,
            "dpmpp_2m",
            self.num_steps,
            guidance_scale=self.guidance_scale,
            guidance_interval=self.guidance_interval,
        )

    @property
    def student_plan(self) -> SamplerPlan:
        """DDIM on the teacher's times that the student shares."""
        places = list(shared_places(self.student_steps, self.num_steps))
        return make_plan("ddim", self.model.schedule, self.plan.times[places].tolist())

    def states(self, seeds: list[int], labels: Tensor | None) -> Tensor:
        """The first noise, the states at the student's later times, and the image: `[rows, student steps + 1, c, h, w]`."""
        generators = [image_generator(seed) for seed in seeds]
        x = normal_rows(generators, self.model.description.data.shape).to(self.device)
        denoiser, null = self.model.denoiser(self.device), self.model.null_label
        steps = reverse_steps(denoiser, self.plan, x, generators, labels, null)
        ends = {*shared_places(self.student_steps, self.num_steps), self.num_steps}
        return torch.stack([x, *(found.x for found in steps if found.number + 1 in ends)], dim=1)


@dataclass(frozen=True, eq=False, slots=True)
class Block:
    """One trajectory for each row of a batch that belongs to this process."""

    states: Tensor
    """float32 `[rows, student steps + 1, channels, height, width]`."""
    labels: Tensor | None
    """int64 `[rows]`."""


class Trajectories:
    """Batch number `step` of a distillation, for any step.

    Row r of every batch takes one of the trajectories number r of the blocks in the window, so that a process draws
    those of its own rows only.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        classes: NDArray[np.int64] | None,
        *,
        seed: int,
        batch_size: int,
        label_dropout: float,
        micro_batch_size: int | None = None,
        workers: Workers = SINGLE,
    ) -> None:
        """Draw no trajectory yet.

        Args:
            teacher: draws the trajectories.
            student: the network in training, as for `NetworkDenoiser`.
            classes: labels of the training images, from which those of trajectories are drawn; None without classes.
            seed: of everything that is drawn.
            batch_size: rows of a batch over all processes.
            label_dropout: share of trajectories without a class.
            micro_batch_size: rows with which the networks are called; None for all rows of this process.
            workers: the place of this process among those that share each batch.
        """
        model = teacher.model
        self.teacher, self.plan = teacher, teacher.student_plan
        self.student = NetworkDenoiser(student, model.schedule, model.description.target, clip=True)
        self.classes, self.seed, self.batch_size, self.label_dropout = classes, seed, batch_size, label_dropout
        self.micro_batches = MicroBatches.of(workers, batch_size, micro_batch_size)
        self._window: dict[int, Block] = {}

    def batches(self, steps: Iterable[int]) -> Iterator[Batch]:
        """The batches of these steps; each is drawn when it is asked for, with the weights that the student then has."""
        yield from map(self.batch, steps)

    def batch(self, step: int) -> Batch:
        """The rows of this process."""
        random = np.random.Generator(np.random.PCG64([self.seed, step]))
        first = step // STEPS_PER_BLOCK
        window = self._blocks(range(first, first + WINDOW))
        chosen = random.integers(WINDOW, size=self.batch_size)[self.micro_batches.own]
        numbers = torch.from_numpy(
            random.permutation(np.arange(self.batch_size) % self.plan.num_steps)[self.micro_batches.own]
        )
        dropout_seed = int(random.integers(2**32))
        states = torch.stack([window[block].states[row] for row, block in enumerate(chosen)])
        labels = None
        if self.classes is not None:
            labels = torch.stack([window[block].labels[row] for row, block in enumerate(chosen)])
        return self._examples(states, labels, numbers, dropout_seed)

    def block(self, number: int) -> Block:
        """Draw this process's trajectories of a block."""
        random = np.random.Generator(np.random.PCG64([self.seed, number, FIRST_INDEX]))
        rows = range(self.batch_size)[self.micro_batches.own]
        seeds = [image_seed(self.seed, FIRST_INDEX + number * self.batch_size + row) for row in rows]
        labels = self._labels(random)
        states = [
            self.teacher.states(seeds[part], None if labels is None else labels[part])
            for part in self.micro_batches.rows
        ]
        return Block(torch.cat(states), labels)

    def _labels(self, random: np.random.Generator) -> Tensor | None:
        null = self.teacher.model.null_label
        if self.classes is None or null is None:
            return None
        labels = random.choice(self.classes, self.batch_size)
        labels[random.random(self.batch_size) < self.label_dropout] = null
        return torch.from_numpy(labels[self.micro_batches.own]).to(self.teacher.device)

    def _blocks(self, wanted: range) -> list[Block]:
        self._window = {number: self._window.get(number) or self.block(number) for number in wanted}
        return list(self._window.values())

    def _examples(self, states: Tensor, labels: Tensor | None, numbers: Tensor, dropout_seed: int) -> Batch:
        """Training examples: row r is the student's state before its step `numbers[r]`, the target the teacher's after it."""
        rows, device = torch.arange(len(states)), states.device
        arrived = [
            self.arrived(states[part], None if labels is None else labels[part], numbers[part])
            for part in self.micro_batches.rows
        ]
        x = torch.cat(arrived)
        x_next = states[rows, numbers + 1]
        x0 = answer(x, x_next, self.plan.coefficients[numbers]).clamp(-1, 1)
        t = self.plan.times[numbers].to(device)
        return Batch(x0, labels, t, noise_in(x, x0, t, self.teacher.model.schedule), None, dropout_seed)

    @torch.no_grad()
    def arrived(self, states: Tensor, labels: Tensor | None, numbers: Tensor) -> Tensor:
        """The student's own states before its steps `numbers`, from the noise with which the teacher's `states` begin."""
        x = states[:, 0].clone()
        for number, t in enumerate(self.plan.times.tolist()[:-1]):
            on = (numbers > number).nonzero()[:, 0].to(x.device)
            if len(on):
                times = torch.full((len(on),), t, device=x.device)
                denoised = self.student(x[on], times, None if labels is None else labels[on])
                zero = torch.zeros_like(denoised)
                x[on] = step(x[on], denoised, zero, zero, self.plan.coefficients[number].expand(len(on), 4))
        return x
