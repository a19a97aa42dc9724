import asyncio
import threading

import numpy as np

from service.engine.request import Drawn, End, Event, Preview, Progress
from service.http.event_queue import PROGRESS_SEC, EventQueue

IMAGE = np.zeros((1, 1, 1), np.uint8)


def test_what_comes_from_another_thread_arrives_in_order() -> None:
    async def scenario() -> list[object]:
        mailbox = EventQueue(wants_progress=True)

        def speak() -> None:
            mailbox(Progress(1, 2))
            mailbox(Drawn(0, IMAGE))
            mailbox(End())

        thread = threading.Thread(target=speak)
        thread.start()
        await asyncio.to_thread(thread.join)
        return list(await mailbox.take())

    events = asyncio.run(scenario())
    assert [type(event) for event in events] == [Progress, Drawn, End]


def test_a_slow_reader_finds_one_preview_an_image_and_every_image() -> None:
    async def scenario() -> list[object]:
        mailbox = EventQueue(wants_progress=True)
        for number in range(3):
            for index in range(2):
                mailbox(Preview(index, number, IMAGE))
        for index in range(2):
            mailbox(Drawn(index, IMAGE))
        mailbox(End())
        return list(await mailbox.take())

    events = asyncio.run(scenario())
    assert [(event.index, event.number) for event in events if isinstance(event, Preview)] == [(0, 2), (1, 2)]
    assert [event.index for event in events if isinstance(event, Drawn)] == [0, 1]


def test_progress_is_told_ten_times_a_second_at_most() -> None:
    async def scenario() -> int:
        mailbox = EventQueue(wants_progress=True)
        loop = asyncio.get_running_loop()
        told, ends = 0, loop.time() + 3.5 * PROGRESS_SEC
        while loop.time() < ends:
            mailbox(Progress(1, 2))
            told += len(await mailbox.take(0.001))
        return told

    assert 1 <= asyncio.run(scenario()) <= 4


def test_a_reader_that_wants_the_end_alone_is_not_woken_before() -> None:
    async def scenario() -> tuple[list[Event], list[Event]]:
        mailbox = EventQueue(wants_progress=False)
        mailbox(Progress(1, 2))
        mailbox(Drawn(0, IMAGE))
        early = list(await mailbox.take(0.05))
        mailbox(End())
        return early, list(await mailbox.take(1))

    early, late = asyncio.run(scenario())
    assert early == []
    assert [type(event) for event in late] == [Drawn, End]
