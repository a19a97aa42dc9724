"""The README's Python example draws from a registered model."""

import re
from pathlib import Path

import pytest
from PIL import Image

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_draws_one_image_per_class(champion: str, workspace: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(example.splitlines()) <= 10
    exec(example.replace("models:/fashion-mnist@champion", champion), {})  # noqa: S102, the README's own code
    with Image.open(workspace / "one-of-each-class.png") as picture:
        assert picture.size == (8 + 1 + 8, 8)  # two classes of 8x8 pixels


@pytest.mark.parametrize("path", re.findall(r"`((?:docs|pipeline|data|service)/[\w/.-]+)`", README))
def test_every_file_that_the_readme_names_exists_or_is_made_by_the_pipeline(path: str) -> None:
    root = Path(__file__).parents[1]
    made = (root / "docs" / "contracts.md").read_text()
    assert (root / path).exists() or Path(path).name in made
