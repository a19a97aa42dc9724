"""The services that `benchmarks.serving` compares: our engine under other policies, and BentoML's adaptive batching.

ARM=serial bentoml serve benchmarks.arms:Foundry
bentoml serve benchmarks.arms:Adaptive
"""

import base64
import os
from dataclasses import replace

import bentoml
from pydantic import BaseModel

from service.app import Foundry
from service.engine.engine import Engine
from service.engine.request import Job, Request, SamplingParams
from service.engine.scheduler import Scheduler
from service.settings import load_settings

# mypy: disable-error-code="untyped-decorator"


class Serial(Scheduler):
    """One request at a time, in order of arrival; the images of one request share its calls."""

    def choose(self, now: float) -> list[Job]:
        del now
        self._tick += 1
        first = next(iter(self._open), None)
        if first is None:
            return []
        return [job for job in self._open if job.request is first.request][: self._limits.rows]


class Grouped(Scheduler):
    """Groups of images with equal numbers of steps, in order of arrival; a group runs until it is finished."""

    _group: tuple[Job, ...] = ()

    def choose(self, now: float) -> list[Job]:
        del now
        self._tick += 1
        group = [job for job in self._group if job.is_open]
        if not group:
            steps = next((job.params.num_steps for job in self._open), None)
            group = [job for job in self._open if job.params.num_steps == steps][: self._limits.rows]
            self._group = tuple(group)
        return group


POLICIES: dict[str, type[Scheduler]] = {"serial": Serial, "grouped": Grouped}

if "ARM" in os.environ:
    # Same engine, same HTTP; only the policy differs.
    Engine.policy = POLICIES[os.environ["ARM"]]

__all__ = ["Adaptive", "Foundry"]


class RequestBody(BaseModel):
    """The body of a request to this arm."""

    n: int
    steps: int
    seed: int


@bentoml.service(workers=1, traffic={"timeout": 3600}, metrics={"enabled": False, "namespace": "bentoml_service"})
class Adaptive:
    """BentoML batches whole requests; their rows leave the batch as they finish."""

    def __init__(self) -> None:
        from service.engine.stepper import Stepper  # noqa: PLC0415, imports torch, which the supervisor does not need

        settings = load_settings()
        if settings.model is None:
            raise ValueError("FOUNDRY_MODEL: should name a model folder")
        self._stepper = Stepper.load(
            settings.model, rows=32, slots=32, max_mib=64, threads=settings.threads, backend=settings.backend
        )
        self._forwards = 0

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=600_000)
    def draw(self, requests: list[RequestBody]) -> list[list[str]]:
        """Pixels of each request's images, in base64."""
        jobs_of = [_jobs(request) for request in requests]
        running = [job for jobs in jobs_of for job in jobs]
        pixels: dict[Job, str] = {}
        for job in running:
            self._stepper.enter(job)
        while running:
            self._stepper.step(running)
            self._forwards += 1
            for job in running:
                job.step += 1
                if not job.steps_left:
                    pixels[job] = base64.b64encode(self._stepper.image(job).tobytes()).decode()
                    self._stepper.leave(job)
            running = [job for job in running if job.steps_left]
        return [[pixels[job] for job in jobs] for jobs in jobs_of]

    @bentoml.api
    def forwards(self) -> int:
        """Model calls so far."""
        return self._forwards


def _jobs(body: RequestBody) -> list[Job]:
    params = SamplingParams(seed=body.seed, class_label=None, sampler="dpmpp_2m", num_steps=body.steps)
    images = tuple(replace(params, seed=body.seed + index) for index in range(body.n))
    return Request(request_id="", owner="", images=images, is_exact=False).jobs
