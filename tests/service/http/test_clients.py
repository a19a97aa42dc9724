"""OpenAI's and BentoML's clients, unchanged, against the service."""

import base64
import json
import subprocess
import sys

import openai
import pytest

from tests.service.server import Server, images_of


def test_openais_client_drawsimages_of(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    assert [model.id for model in client.models.list()] == ["diffusion-foundry"]
    response = client.images.generate(
        prompt="dog", model="diffusion-foundry", n=2, size="8x8",
        user="somebody", response_format="b64_json", extra_body={"seed": 9, "steps": 3},
    )  # fmt: skip
    assert response.data is not None
    drawn = [base64.b64decode(image.b64_json or "") for image in response.data]
    assert drawn == images_of(server.post(prompt="dog", n=2, seed=9, steps=3))


def test_openais_client_streamsimages_of(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any")
    stream = client.images.generate(prompt="cat", stream=True, partial_images=2, extra_body={"seed": 9, "steps": 60})
    events = [event for event in stream if event.type.startswith("image_generation")]
    assert [event.type for event in events][-1] == "image_generation.completed"
    assert {event.type for event in events} == {"image_generation.partial_image", "image_generation.completed"}


def test_openais_client_raises_its_own_errors(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.images.generate(prompt="horse")
    assert refused.value.code == "invalid_request"
    with pytest.raises(openai.InternalServerError) as hopeless:
        client.images.generate(prompt="cat", extra_body={"steps": 100, "deadline_ms": 1})
    assert hopeless.value.code == "deadline_unattainable"


def test_bentomls_client_draws_the_sameimages_of(server: Server) -> None:
    # In a process of its own: at import and at its end it warns of itself.
    script = (
        "import bentoml, json, sys\n"
        "with bentoml.SyncHTTPClient(sys.argv[1]) as client:\n"
        "    response = client.generate(class_label='dog', seed=9, steps=3, n=2)\n"
        "print(response.model_dump_json() if hasattr(response, 'model_dump_json') else json.dumps(response))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, server.url], capture_output=True, text=True, check=True)
    data = json.loads(done.stdout)["data"]
    wanted = images_of(server.post(class_label="dog", seed=9, steps=3, n=2))
    assert [base64.b64decode(image["b64_json"]) for image in data] == wanted
