import asyncio
import threading

import numpy as np

from service.engine.events import Completed, End, Event, Preview, Progress
from service.http.event_queue import PROGRESS_SEC, EventQueue

IMAGE = np.zeros((1, 1, 1), np.uint8)


def test_events_of_another_thread_arrive_in_order() -> None:
    async def scenario() -> list[object]:
        queue = EventQueue(wants_progress=True)

        def send() -> None:
            queue(Progress(1, 2, 1, 1))
            queue(Completed(0, IMAGE))
            queue(End())

        thread = threading.Thread(target=send)
        thread.start()
        await asyncio.to_thread(thread.join)
        return list(await queue.take())

    events = asyncio.run(scenario())
    assert [type(event) for event in events] == [Progress, Completed, End]


def test_a_slow_reader_gets_the_latest_preview_of_each_image_and_every_image() -> None:
    async def scenario() -> list[object]:
        queue = EventQueue(wants_progress=True)
        for number in range(3):
            for index in range(2):
                queue(Preview(index, number, IMAGE))
        for index in range(2):
            queue(Completed(index, IMAGE))
        queue(End())
        return list(await queue.take())

    events = asyncio.run(scenario())
    assert [(event.index, event.number) for event in events if isinstance(event, Preview)] == [(0, 2), (1, 2)]
    assert [event.index for event in events if isinstance(event, Completed)] == [0, 1]


def test_progress_arrives_at_most_ten_times_a_second() -> None:
    async def scenario() -> int:
        queue = EventQueue(wants_progress=True)
        loop = asyncio.get_running_loop()
        count, ends = 0, loop.time() + 3.5 * PROGRESS_SEC
        while loop.time() < ends:
            queue(Progress(1, 2, 1, 1))
            count += len(await queue.take(0.001))
        return count

    assert 1 <= asyncio.run(scenario()) <= 4


def test_a_reader_of_the_end_alone_is_not_woken_before() -> None:
    async def scenario() -> tuple[list[Event], list[Event]]:
        queue = EventQueue(wants_progress=False)
        queue(Progress(1, 2, 1, 1))
        queue(Completed(0, IMAGE))
        early = list(await queue.take(0.05))
        queue(End())
        return early, list(await queue.take(1))

    early, late = asyncio.run(scenario())
    assert early == []
    assert [type(event) for event in late] == [Completed, End]
