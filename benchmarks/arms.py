"""What the service is compared with: its own engine under other policies, and BentoML's adaptive batching.

ARM=serial bentoml serve benchmarks.arms:Foundry
bentoml serve benchmarks.arms:Adaptive
"""

from __future__ import annotations

import base64
import os
from dataclasses import replace

import bentoml
from pydantic import BaseModel

from service.app import Foundry
from service.engine.engine import Engine
from service.engine.job import Job, SamplingParams, SchedulingParams
from service.engine.scheduler import Scheduler
from service.settings import load_settings

# mypy: disable-error-code="untyped-decorator"


class Serial(Scheduler):
    """One request after the other, as they come; the images of one share its calls."""

    def choose(self, now: float) -> list[Job]:
        del now
        self._tick += 1
        first = next(iter(self._open), None)
        if first is None:
            return []
        return [job for job in self._open if job.terms.request_id == first.terms.request_id][: self._limits.rows]


class Grouped(Scheduler):
    """Images with equal numbers of steps together, as they come; a group is drawn to its end."""

    _group: tuple[Job, ...] = ()

    def choose(self, now: float) -> list[Job]:
        del now
        self._tick += 1
        going = [job for job in self._group if job.is_open]
        if not going:
            steps = next((job.recipe.num_steps for job in self._open), None)
            going = [job for job in self._open if job.recipe.num_steps == steps][: self._limits.rows]
            self._group = tuple(going)
        return going


POLICIES: dict[str, type[Scheduler]] = {"serial": Serial, "grouped": Grouped}

if "ARM" in os.environ:
    # The same engine and the same HTTP; nothing but the policy differs.
    Engine.policy = POLICIES[os.environ["ARM"]]

__all__ = ["Adaptive", "Foundry"]


class Asked(BaseModel):
    """A whole request, as this arm takes it."""

    n: int
    steps: int
    seed: int


@bentoml.service(workers=1, traffic={"timeout": 3600}, metrics={"enabled": False, "namespace": "bentoml_service"})
class Adaptive:
    """BentoML forms the batches, of whole requests; their rows leave the batch as they finish."""

    def __init__(self) -> None:
        from service.engine.stepper import Stepper  # noqa: PLC0415, torch: the supervisor can do without

        settings = load_settings()
        if settings.model is None:
            raise ValueError("FOUNDRY_MODEL: should name a model folder")
        self._stepper = Stepper.load(
            settings.model, rows=32, slots=32, max_mib=64, threads=settings.threads, backend=settings.backend
        )
        self._forwards = 0

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=600_000)
    def draw(self, requests: list[Asked]) -> list[list[str]]:
        """Pixels of every request's images, base64."""
        jobs = [_jobs(request) for request in requests]
        going = [job for images in jobs for job in images]
        pixels: dict[Job, str] = {}
        for job in going:
            self._stepper.enter(job)
        while going:
            self._stepper.step(going)
            self._forwards += 1
            for job in going:
                job.step += 1
                if not job.steps_left:
                    pixels[job] = base64.b64encode(self._stepper.image(job).tobytes()).decode()
                    self._stepper.leave(job)
            going = [job for job in going if job.steps_left]
        return [[pixels[job] for job in images] for images in jobs]

    @bentoml.api
    def forwards(self) -> int:
        """Network calls so far."""
        return self._forwards


def _jobs(asked: Asked) -> list[Job]:
    recipe = SamplingParams(seed=asked.seed, class_label=None, sampler="dpmpp_2m", num_steps=asked.steps)
    terms = SchedulingParams(request_id="", owner="", is_exact=False)
    return [Job(recipe=replace(recipe, seed=asked.seed + index), terms=terms) for index in range(asked.n)]
