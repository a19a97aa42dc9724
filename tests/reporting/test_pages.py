import base64
import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from jinja2 import Environment
from jinja2.meta import find_referenced_templates
from PIL import Image

from pipeline.reporting.pages import LARGEST_PICTURE_BYTES, format_cell, format_figure, picture_uri, thumbnail

TEMPLATES = Path("pipeline/reporting/templates")


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_figures_have_four_digits_and_thousands_separators() -> None:
    values = [None, 1234, 0.123456, 12345.6, -0.00001234, "text", True]
    assert [format_figure(value) for value in values] == ["", "1,234", "0.1235", "12,346", "-1.234e-05", "text", "True"]


def test_text_from_outside_cannot_end_a_cell_or_start_a_tag() -> None:
    assert format_cell("a|b\n<script>`x`") == "a\\|b &lt;script>'x'"
    assert (format_cell(None), format_cell(1234)) == ("", "1,234")


def test_a_large_picture_is_reduced_until_it_fits() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 1000, 3), np.uint8))
    uri = picture_uri(noise)
    assert len(uri) <= LARGEST_PICTURE_BYTES * 4 / 3 + 100
    assert decoded(uri).width / decoded(uri).height == pytest.approx(1000 / 1500, rel=0.01)


@pytest.mark.parametrize(
    ("size", "shown", "kind"), [(8, 8, "png"), (32, 32, "png"), (33, 33, "jpeg"), (200, 64, "jpeg")]
)
def test_only_small_thumbnails_are_exact(size: int, shown: int, kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (size, size, 1), np.uint8)
    made = thumbnail(image, "a caption")
    assert made.uri.startswith(f"data:image/{kind};base64,")
    assert decoded(made.uri).size == (shown, shown)
    if kind == "png":
        np.testing.assert_array_equal(np.asarray(decoded(made.uri)), image[..., 0])


def used_templates(name: str, root: Path) -> set[str]:
    """The template and all that it extends or imports."""
    source = (root / TEMPLATES / name).read_text(encoding="utf-8")
    used = {str(each) for each in find_referenced_templates(Environment(autoescape=True).parse(source))}
    return {name}.union(*(used_templates(each, root) for each in used))


@pytest.mark.parametrize(("stage", "template"), [("prepare", "data.html"), ("evaluate", "evaluation.html")])
def test_a_stage_depends_on_the_templates_of_its_page_and_on_no_others(stage: str, template: str, root: Path) -> None:
    deps = yaml.safe_load((root / "dvc.yaml").read_text())["stages"][stage]["deps"]
    listed = {Path(dep).name for dep in deps if dep.startswith(f"{TEMPLATES}/")}
    assert listed == used_templates(template, root)
