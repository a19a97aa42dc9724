"""The images of /v1/images/generations: seeds, classes, formats, and independence of traffic."""

import io
import json
import random
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from pipeline.artefacts.passport import read
from service.http.schemas import ImagesResponse
from tests.service.server import Server, images_of, soon


def test_an_image_is_drawn_again_from_its_passport(server: Server) -> None:
    [png] = images_of(server.post(steps=4, sampler="ddim", eta=0.5, class_label="dog", guidance_scale=2.0))
    picture = read(png, None)
    assert picture.image.shape == (8, 8, 1)
    passport = picture.passport
    again = server.post(
        seed=passport.seed, steps=passport.num_steps, sampler=passport.sampler, eta=passport.eta,
        class_label=passport.class_label, guidance_scale=passport.guidance_scale, determinism=passport.determinism,
    )  # fmt: skip
    assert images_of(again) == [png]
    assert again.json()["repro_id"] == passport.repro_id
    assert again.json()["model_digest"] == passport.model_digest


def test_every_image_of_a_request_can_be_drawn_alone_with_its_seed(server: Server) -> None:
    together = server.post(n=4, steps=3, sampler="ddpm")
    body = ImagesResponse.model_validate_json(together.content)
    assert body.data[0].seed == body.seed
    assert len({image.id for image in body.data}) == 4
    alone = [images_of(server.post(steps=3, sampler="ddpm", seed=image.seed))[0] for image in body.data]
    assert alone == images_of(together)


def test_random_seeds_differ(server: Server) -> None:
    seeds = [server.post(steps=1, seed=None).json()["seed"] for _ in range(4)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_a_class_can_be_given_by_index_name_or_prompt(server: Server) -> None:
    wanted = images_of(server.post(seed=1, steps=3, class_label=1))
    assert images_of(server.post(seed=1, steps=3, class_label="dog")) == wanted
    assert images_of(server.post(seed=1, steps=3, prompt="dog")) == wanted
    assert images_of(server.post(seed=1, steps=3, prompt="dog", class_label=1)) == wanted
    assert images_of(server.post(seed=1, steps=3)) != wanted
    assert server.post(steps=1, prompt="dog").json()["class_name"] == "dog"


def test_defaults_are_the_models(server: Server) -> None:
    body = server.post().json()
    assert (body["sampler"], body["steps"], body["guidance_scale"], body["size"]) == ("dpmpp_2m", 10, 1.0, "8x8")


def test_all_formats_have_the_same_pixels(server: Server) -> None:
    wanted = [np.asarray(Image.open(io.BytesIO(png))) for png in images_of(server.post(n=2, seed=3, steps=3))]
    png = server.post(seed=3, steps=3, response_format="png")
    assert png.headers["content-type"] == "image/png"
    assert np.array_equal(read(png.content, None).image[:, :, 0], wanted[0])
    packed = server.post(n=2, seed=3, steps=3, response_format="png")
    assert packed.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.namelist() == ["0.png", "1.png"]
        assert np.array_equal(read(archive.read("1.png"), None).image[:, :, 0], wanted[1])
    array = server.post(n=2, seed=3, steps=3, response_format="npy")
    loaded = np.load(io.BytesIO(array.content), allow_pickle=False)
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded[..., 0], np.stack(wanted))
    assert array.headers["x-seeds"].split(",")[0] == "3"


def test_bytes_do_not_depend_on_traffic(server: Server) -> None:
    asked: list[dict[str, Any]] = [
        {"seed": i, "steps": 3 + i, "sampler": ("ddim", "ddpm", "dpmpp_2m")[i % 3], "class_label": i % 3,
         "guidance_scale": (1.0, 2.5)[i % 2], "n": 1 + i % 2}
        for i in range(6)
    ]  # fmt: skip
    alone = [images_of(server.post(**body)) for body in asked]
    for seed in range(3):
        order = random.Random(seed)  # noqa: S311, traffic
        with ThreadPoolExecutor(12) as pool:
            others = [pool.submit(server.post, steps=order.randint(1, 20), n=order.randint(1, 3)) for _ in range(6)]
            mixed = [pool.submit(server.post, **body) for body in order.sample(asked, 6)]
            found = {json.loads(m.result().request.content)["seed"]: images_of(m.result()) for m in mixed}
            assert {other.result().status_code for other in others} == {200}
        assert [found[i] for i in range(6)] == alone


def test_concurrent_requests_share_network_calls(server: Server) -> None:
    assert soon(server.is_idle)
    with ThreadPoolExecutor(24) as pool:
        before = server.metric("unet_forwards_total")
        jobs = [pool.submit(server.post, steps=steps, seed=1) for steps in (100, 80, 60, 90) * 6]
        assert {job.result().status_code for job in jobs} == {200}
    # Alone each would need 330 / 4 on average.
    assert server.metric("unet_forwards_total") - before < 0.5 * 6 * 330
