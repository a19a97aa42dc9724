import asyncio
from itertools import pairwise

import httpx

from benchmarks.traffic import KINDS, Target, isolated, open_loop, saturate, together

CALL_SEC = 0.01


class OneAtATime:
    """A server that handles one request at a time, in constant time, and counts one model call for each."""

    def __init__(self) -> None:
        self.calls = 0
        self._turn = asyncio.Lock()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            return httpx.Response(200, text=f"# HELP\nfoundry_unet_forwards_total {self.calls}.0\n")
        async with self._turn:
            await asyncio.sleep(CALL_SEC)
        self.calls += 1
        return httpx.Response(200)


def _target(server: OneAtATime) -> Target:
    return Target("http://server", httpx.AsyncClient(transport=httpx.MockTransport(server)), "exact")


def test_arrivals_do_not_wait_for_answers_and_latency_includes_the_queue() -> None:
    async def scenario() -> None:
        answers, elapsed = await open_loop(_target(OneAtATime()), rate=500, seconds=0.4, seed=0)
        assert len(answers) > 100
        assert elapsed > len(answers) * CALL_SEC
        # The last request, due at 0.4 s, waits for all others.
        assert answers[-1].latency_sec > elapsed - 0.5
        assert all(earlier.due_sec <= later.due_sec < 0.4 for earlier, later in pairwise(answers))

    asyncio.run(scenario())


def test_the_same_seed_gives_the_same_traffic() -> None:
    async def scenario(seed: int) -> list[tuple[int, int, float]]:
        answers, _ = await open_loop(_target(OneAtATime()), rate=50, seconds=0.2, seed=seed)
        return [(answer.steps, answer.images, answer.due_sec) for answer in answers]

    assert asyncio.run(scenario(3)) == asyncio.run(scenario(3)) != asyncio.run(scenario(4))


def test_saturated_throughput_and_single_requests_are_measured() -> None:
    async def scenario() -> None:
        target = _target(OneAtATime())
        assert 0 < await saturate(target, 0.5) <= 1 / CALL_SEC
        alone = await isolated(target, times=1)
        assert len(alone) == len(KINDS)
        assert min(alone.values()) >= CALL_SEC
        assert await together(target) == 6

    asyncio.run(scenario())
