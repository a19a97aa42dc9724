"""What a request gets from the engine: images, progress, previews, and one end."""

import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from service.engine.engine import Engine
from service.engine.events import Preview, Progress
from service.errors import (
    CancelledError,
    NotFoundError,
    QueueFullError,
)
from tests.service.engine.engines import (
    PARAMS,
    Listener,
    gated,
    is_empty,
    load_stepper,
    make_request,
    running,
)
from tests.service.server import soon


def test_a_request_gets_all_its_images_and_then_its_end(engine: Engine) -> None:
    listener = Listener()
    images = [replace(PARAMS, seed=seed) for seed in range(5)]
    request = make_request("five", *images)
    engine.submit(request, listener)
    assert len(set(listener.images())) == 5
    assert request.status == "completed"
    assert is_empty(engine)


def test_equal_parameters_give_equal_bytes_in_any_traffic_and_after_a_restart(
    engine: Engine, model_folder: Path
) -> None:
    images = [replace(PARAMS, seed=seed, num_steps=3 + seed, guidance_scale=1.0 + seed % 2) for seed in range(6)]
    alone = []
    for i, params in enumerate(images):
        engine.submit(make_request(f"alone-{i}", params), listener := Listener())
        alone += listener.images()
    for seed in range(3):
        traffic, listeners = random.Random(seed), [Listener() for _ in images]  # noqa: S311, traffic
        for i in traffic.sample(range(6), 6):
            engine.submit(make_request(f"mixed-{i}", images[i]), listeners[i])
            engine.submit(
                make_request(f"other-{i}", replace(PARAMS, seed=99 + i, num_steps=traffic.randint(1, 9))), Listener()
            )
            time.sleep(traffic.random() * 0.01)
        assert [image for listener in listeners for image in listener.images()] == alone
        assert soon(lambda: is_empty(engine))
    with running(lambda: load_stepper(model_folder)) as again:
        again.submit(make_request("again", *images), listener := Listener())
        assert listener.images() == alone


def test_mixed_requests_need_at_most_one_call_more_than_the_longest(model_folder: Path) -> None:
    with gated(model_folder) as (engine, gate):
        listeners = [Listener() for _ in range(6)]
        for i, listener in enumerate(listeners):
            params = replace(PARAMS, seed=i, num_steps=(10, 25, 50)[i % 3], sampler=("ddpm", "ddim")[i % 2])
            engine.submit(make_request(f"r{i}", params), listener)
        gate.open.set()
        for listener in listeners:
            listener.images()
        assert gate.calls <= 51


def test_progress_never_decreases_and_ends_at_all_steps(engine: Engine) -> None:
    engine.submit(make_request("progress", PARAMS, replace(PARAMS, seed=8, num_steps=4)), listener := Listener())
    listener.images()
    done = [event.steps_done for event in listener.events if isinstance(event, Progress)]
    assert done == sorted(done)
    assert done[-1] == 14


def test_progress_tells_how_many_images_of_how_many_requests_shared_the_network_call(model_folder: Path) -> None:
    with gated(model_folder) as (engine, gate):
        listeners = [Listener() for _ in range(2)]
        engine.submit(make_request("short", replace(PARAMS, num_steps=3)), listeners[0])
        engine.submit(make_request("long", *(replace(PARAMS, seed=seed, num_steps=5) for seed in (1, 2))), listeners[1])
        gate.open.set()
        for listener in listeners:
            listener.images()
    [short, long] = [[event for event in each.events if isinstance(event, Progress)] for each in listeners]
    assert {(event.call_images, event.call_requests) for event in short[-2:]} == {(3, 2)}
    assert {(event.call_images, event.call_requests) for event in long[-2:]} == {(2, 1)}


def test_each_image_has_as_many_previews_as_requested(engine: Engine) -> None:
    for wanted, steps in [(0, 10), (1, 10), (3, 10), (3, 2), (2, 1)]:
        params = replace(PARAMS, num_steps=steps)
        engine.submit(make_request(f"preview-{wanted}-{steps}", params, num_previews=wanted), listener := Listener())
        listener.images()
        numbers = [event.number for event in listener.events if isinstance(event, Preview)]
        assert len(numbers) == min(wanted, steps - 1)
        assert numbers == sorted(set(numbers))


def test_requests_of_other_owners_are_not_found(engine: Engine) -> None:
    engine.submit(make_request("mine"), listener := Listener())
    with pytest.raises(NotFoundError):
        engine.cancel("somebody", "mine")
    listener.images()
    with pytest.raises(NotFoundError):
        engine.find("somebody", "mine")


def test_cancelling_a_trace_id_cancels_every_open_request_with_it(model_folder: Path) -> None:
    with gated(model_folder) as (engine, gate):
        listeners = {name: Listener() for name in ("one", "two", "other")}
        for name, listener in listeners.items():
            engine.submit(make_request(name, trace_id="trace" if name != "other" else ""), listener)
        assert engine.cancel("o", "trace").status == "cancelling"
        gate.open.set()
        errors = {name: type(listener.error()) for name, listener in listeners.items()}
    assert errors == {"one": CancelledError, "two": CancelledError, "other": type(None)}


def test_hundreds_of_cancelled_requests_free_every_slot(engine: Engine) -> None:
    traffic = random.Random(0)  # noqa: S311, traffic
    listeners: dict[str, Listener] = {}
    for i in range(300):
        name = f"fickle-{i}"
        try:
            engine.submit(
                make_request(name, *[replace(PARAMS, num_steps=traffic.randint(1, 30))] * traffic.randint(1, 4)),
                listener := Listener(),
            )
            listeners[name] = listener
        except QueueFullError:
            continue
        if traffic.random() < 0.7:
            engine.cancel("o", traffic.choice(list(listeners)))
        if traffic.random() < 0.3:
            time.sleep(0.002)
    errors = [listener.error() for listener in listeners.values()]
    assert {type(error) for error in errors} == {type(None), CancelledError}
    assert is_empty(engine)
