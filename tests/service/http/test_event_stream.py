"""Streams of server-sent events."""

import base64
import io

import numpy as np
from PIL import Image

from tests.service.server import GENERATIONS, Server, busy, error_of, events_of, images_of, parse_events


def test_a_stream_has_its_events_in_order(server: Server) -> None:
    events = events_of(server, n=2, steps=40, seed=5, partial_images=2, class_label=0)
    names = [name for name, _ in events]
    assert names[0] == "queued"
    assert names[-1] == "image_generation.completed"
    assert names.count("image_generation.completed") == 2
    assert names.count("image_generation.partial_image") <= 4
    steps = [fields["steps_done"] for name, fields in events if name == "progress"]
    assert steps == sorted(steps)
    drawn = {
        fields["index"]: base64.b64decode(fields["b64_json"]) for name, fields in events if name.endswith("completed")
    }
    assert [drawn[0], drawn[1]] == images_of(server.post(n=2, steps=40, seed=5, class_label=0))


def test_previews_approach_the_image(server: Server) -> None:
    events = events_of(server, steps=100, seed=5, partial_images=3, sampler="ddim", class_label=0)
    shown = [fields for name, fields in events if "b64_json" in fields]
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(f["b64_json"]))), np.float32) for f in shown]
    # A reader that is late finds the last of them.
    numbers = [fields["partial_image_index"] for fields in shown[:-1]]
    assert numbers
    assert numbers == sorted(set(numbers))
    assert set(numbers) <= {0, 1, 2}
    far = [float(np.abs(image - images[-1]).mean()) for image in images]
    assert far == sorted(far, reverse=True)


def test_a_refusal_has_its_own_status_instead_of_a_stream(server: Server) -> None:
    response = server.post(stream=True, steps=100, deadline_ms=1)
    assert (response.status_code, error_of(response)) == (503, "deadline_unattainable")


def test_a_cancelled_stream_ends_with_anerror_of(server: Server) -> None:
    body = {"stream": True, "n": 8, "steps": 100}
    with (
        busy(server),
        server.client() as client,
        client.stream("POST", GENERATIONS, json=body, headers={"x-request-id": "doomed"}) as response,
    ):
        text = response.iter_text()
        first = next(text)
        assert server.post("/v1/images/cancel", id="doomed").status_code == 200
        name, fields = parse_events(first + "".join(text))[-1]
    assert (name, fields["error"]["code"], fields["error"]["request_id"]) == ("error", "cancelled", "doomed")
