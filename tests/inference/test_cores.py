import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.artefacts.model import Model, plan_for
from pipeline.diffusion.seeds import image_seed
from pipeline.inference.cores import on_all_cores
from pipeline.inference.draw import draw, draw_batches


@pytest.fixture
def number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("number_of_threads")
def test_results_come_in_the_order_of_their_batches_from_one_thread_each() -> None:
    torch.set_num_threads(3)
    begun = threading.Barrier(3, timeout=240)

    def work(number: int) -> tuple[int, int]:
        # Nobody passes before three batches have begun.
        begun.wait()
        return number, torch.get_num_threads()

    assert list(on_all_cores(work, range(6))) == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("number_of_threads")
def test_an_error_in_a_batch_ends_the_work() -> None:
    torch.set_num_threads(2)

    def work(number: int) -> int:
        return 1 // (number - 2)

    with pytest.raises(ZeroDivisionError):
        list(on_all_cores(work, range(100)))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("number_of_threads")
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_images_have_the_same_bytes_on_any_number_of_cores(model: Model, guidance_scale: float) -> None:
    seeds, labels = [image_seed(3, i) for i in range(70)], [i % 2 for i in range(70)]
    drawn = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        drawn.append(draw(model, seeds, labels, guidance_scale=guidance_scale).tobytes())
    assert len(set(drawn)) == 1


def test_batches_before_the_rounding_to_bytes_are_the_same_images(model: Model) -> None:
    seeds, labels = [image_seed(4, i) for i in range(20)], [i % 2 for i in range(20)]
    x0 = torch.cat(list(draw_batches(model, plan_for(model, "ddim", 3), seeds, labels)))
    assert x0.shape == (20, 3, 8, 8)
    images = draw(model, seeds, labels).astype(np.float32)
    assert np.abs((x0.permute(0, 2, 3, 1).numpy() + 1) * 255 / 2 - images).max() <= 0.5 + 1e-4
