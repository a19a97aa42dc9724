"""What the playground does with pictures that are drawn: passports, the same seeds, comparisons, history, archives, links."""

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.artefacts.passport import read
from tests.service.page import draw, expect, needs_chromium, png_of, seeds
from tests.service.server import Server

pytestmark = needs_chromium

DROP = """
([bytes, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(bytes)], name, { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}
"""


def drop(page: Any, png: bytes, name: str = "picture.png") -> None:
    page.evaluate(DROP, [list(png), name])


def drawn_by(server: Server, **fields: Any) -> bytes:
    content: bytes = server.post(response_format="png", **fields).content
    return content


def labels(page: Any) -> list[str]:
    return list(page.locator(".tile-label").all_text_contents())


def test_a_dropped_picture_shows_its_passport_and_is_drawn_again_pixel_by_pixel(page: Any, server: Server) -> None:
    # The settings of the page are others, and the seed has no exact number in JavaScript.
    png = drawn_by(server, seed=2**63 - 5, class_label="dog", steps=7, sampler="ddim", eta=0.5, guidance_scale=3.0)
    drop(page, png)
    passport = page.get_by_role("region", name="Passport")
    expect(passport).to_contain_text(f"seed{2**63 - 5}classdogsamplerDDIMsteps7guidance3eta0.5")
    page.get_by_role("button", name="Draw it again").click()
    expect(passport.get_by_role("status")).to_have_text("It is the same picture: no pixel differs.")
    page.get_by_role("button", name="Close").click()
    expect(passport).to_be_hidden()


def test_a_picture_that_somebody_has_changed_is_not_the_same(page: Any, server: Server) -> None:
    picture = read(drawn_by(server, seed=3, steps=5), None)
    changed = picture.image.copy()
    changed[2, 3] = 255 - changed[2, 3]
    changed[4, 4] = 255 - changed[4, 4]
    drop(page, picture.passport.png(changed, key=None))
    page.get_by_role("button", name="Draw it again").click()
    expect(page.get_by_role("region", name="Passport").get_by_role("status")).to_contain_text("2 pixels differ.")


def test_a_picture_of_another_model_and_files_without_a_passport_are_called_so(page: Any, server: Server) -> None:
    png = drawn_by(server, seed=3, steps=5)
    digest = read(png, None).passport.model_digest
    page.evaluate("model.digest = 'another'")
    drop(page, png)
    expect(page.get_by_role("region", name="Passport")).to_contain_text("Another model has drawn it")
    assert digest
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, format="png")
    drop(page, file.getvalue(), "mine.png")
    expect(page.get_by_role("alert")).to_contain_text("mine.png has no passport")
    drop(page, b"GIF89a", "mine.gif")
    expect(page.get_by_role("alert")).to_contain_text("mine.gif is no PNG")
    expect(page.get_by_role("region", name="Passport")).to_be_hidden()


def test_a_picture_can_be_opened_without_a_mouse(page: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(drawn_by(server, seed=3, steps=5))
    page.get_by_label("Read a picture’s passport").set_input_files(tmp_path / "a.png")
    expect(page.get_by_role("button", name="Draw it again")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Passport").get_by_role("status")).to_contain_text("It is the same")


def test_a_kept_seed_draws_the_same_images_until_it_is_let_go(page: Any) -> None:
    page.get_by_label("Keep the seed of the next images").check()
    draw(page, 2)
    first = [png_of(page, number) for number in range(2)]
    draw(page, 2)
    assert [png_of(page, number) for number in range(2)] == first
    page.get_by_label("Keep the seed of the next images").uncheck()
    expect(page.get_by_role("textbox", name="Seed")).to_have_value("")
    draw(page, 2)
    assert png_of(page) != first[0]
    (_, second) = seeds(page)
    page.get_by_role("button", name=f"Keep seed {second}").click()
    expect(page.get_by_role("textbox", name="Seed")).to_have_value(second)


@pytest.mark.parametrize(
    ("show", "field", "values", "words"),
    [
        ("the same seed in each class", "class_label", [0, 1, 2], ["cat", "dog", "bird"]),
        ("the same seed by sampler", "sampler", ["dpmpp_2m", "ddim", "ddpm"], ["DPM++ 2M", "DDIM", "DDPM"]),
    ],
)
def test_variations_are_images_of_one_seed_that_differ_in_one_setting(
    page: Any, show: str, field: str, values: list[Any], words: list[str]
) -> None:
    page.get_by_label("Show").select_option(show)
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("li[data-done]")).to_have_count(len(values))
    expect(page.get_by_role("status").first).to_have_text(f"All {len(values)} images are finished.")
    passports = [read(png_of(page, number), None).passport for number in range(len(values))]
    assert [getattr(passport, field) for passport in passports] == values
    assert len({passport.seed for passport in passports}) == 1
    assert labels(page) == words


def test_two_settings_are_compared_on_the_same_seeds(page: Any) -> None:
    page.get_by_label("Class").select_option("cat")
    page.get_by_label("Compare with these settings as A").check()
    expect(page.get_by_text("A: cat, DPM++ 2M, 10 steps")).to_be_visible()
    page.get_by_label("Steps").fill("3")
    page.get_by_label("Number of images").fill("2")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("li[data-done]")).to_have_count(4)
    assert labels(page) == ["A", "B", "A", "B"]
    passports = [read(png_of(page, number), None).passport for number in range(4)]
    assert [passport.num_steps for passport in passports] == [10, 3, 10, 3]
    first, second = passports[0].seed, passports[2].seed
    assert [passport.seed for passport in passports] == [first, first, second, second]
    assert first != second


def test_classes_with_names_that_begin_with_a_and_b_are_no_comparison(page: Any) -> None:
    page.evaluate("model.class_names = ['Ankle boot', 'Bag', 'Coat']")
    page.get_by_label("Show").select_option("the same seed in each class")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("li[data-done]")).to_have_count(3)
    assert labels(page) == ["Ankle boot", "Bag", "Coat"]


def test_what_was_drawn_before_can_be_seen_again(page: Any) -> None:
    page.get_by_label("Class").select_option("dog")
    draw(page, 2)
    before = [png_of(page, number) for number in range(2)]
    page.get_by_label("Class").select_option("bird")
    draw(page, 1)
    page.get_by_role("button", name="dog, DPM++ 2M, 10 steps (2)").click()
    expect(page.locator("li[data-done]")).to_have_count(2)
    assert [png_of(page, number) for number in range(2)] == before
    assert page.get_by_label("Class").input_value() == "1"


def test_all_images_come_as_one_archive(page: Any, tmp_path: Path) -> None:
    page.get_by_label("Show").select_option("the same seed in each class")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("li[data-done]")).to_have_count(3)
    expect(page.get_by_role("button", name="Draw")).to_be_enabled()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all as ZIP").click()
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        assert [archive.read(name) for name in archive.namelist()] == [png_of(page, number) for number in range(3)]
        assert [read(archive.read(name), None).passport.class_label for name in archive.namelist()] == [0, 1, 2]


def test_a_link_opens_the_page_with_what_draws_the_same_images(page: Any, server: Server) -> None:
    page.get_by_label("Class").select_option("dog")
    page.get_by_label("Guidance").fill("3")
    page.get_by_label("DDIM").check()
    draw(page, 2)
    before = [png_of(page, number) for number in range(2)]
    page.get_by_role("button", name="Copy a link").click()
    expect(page.get_by_role("status").first).to_contain_text("The link is copied.")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{server.url}/playground#")
    other = page.context.new_page()
    other.goto(link)
    expect(other.locator("#model code")).to_be_visible()
    other.get_by_role("button", name="Draw").click()
    expect(other.locator("li[data-done]")).to_have_count(2)
    assert [png_of(other, number) for number in range(2)] == before


def test_a_link_that_somebody_made_up_changes_nothing_but_settings(page: Any, server: Server) -> None:
    other = page.context.new_page()
    other.goto(f"{server.url}/playground#sampler=<b>x</b>&steps=abc&class_label=99&seed=-1&vary=nothing&n=2")
    expect(other.locator("#model code")).to_be_visible()
    draw(other, 2)
    assert read(png_of(other), None).passport.num_steps == 10


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_a_phone(page: Any, server: Server, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    page.get_by_label("Compare with these settings as A").check()
    page.get_by_label("Number of images").fill("2")
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("li[data-done]")).to_have_count(4)
    drop(page, drawn_by(server, seed=3, steps=5))
    expect(page.get_by_role("region", name="Passport")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


ODD_NAMES = {"データ": "データ", "x" * 120: "x" * 50, "<b>\N{CAT FACE}</b>/..": "b-b", "\N{CAT FACE}": "class-3"}


@pytest.mark.parametrize("width", [360, 1400])
def test_class_names_of_any_kind_fit_and_name_files(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    page.evaluate("(names) => showModel({ ...model, class_names: names })", list(ODD_NAMES))
    # The service has three classes, and the page shows what it is told.
    for label, name in list(enumerate(ODD_NAMES))[:3]:
        page.get_by_label("Class").select_option(str(label))
        page.get_by_label("Compare with these settings as A").check()
        page.get_by_label("Compare with these settings as A").uncheck()
        draw(page, 1)
        expect(page.get_by_role("img").first).to_have_attribute("alt", re.compile(f"^{re.escape(name)}, seed "))
    page.evaluate("showError('y'.repeat(300))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    named = page.evaluate(
        "() => model.class_names.map((_, class_label) => fileName({ seed: 7, request: { class_label, label: '' } }))"
    )
    assert named == [f"{name}-7.png" for name in ODD_NAMES.values()]
    label = page.evaluate("fileName({ seed: 7, request: { class_label: 0, label: 'データ' } })")
    assert label == "データ-7.png"


def test_different_pixels_are_counted_as_numpy_counts_them(page: Any) -> None:
    random = np.random.default_rng(0)
    one = random.integers(0, 2, (9, 7), np.uint8) * 255
    other = np.where(random.random((9, 7)) < 0.3, 255 - one, one)
    uris = []
    for pixels in (one, other):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="png")
        uris.append(list(file.getvalue()))
    count = page.evaluate(
        """async (files) => {
          const images = await Promise.all(files.map(async (bytes) => {
            const image = new Image();
            image.src = URL.createObjectURL(new Blob([Uint8Array.from(bytes)], { type: "image/png" }));
            await image.decode();
            return image;
          }));
          return differentPixels(...images);
        }""",
        uris,
    )
    assert count == int((one != other).sum())
