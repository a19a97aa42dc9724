"""The messages on docs/troubleshooting.md are those of the pinned packages: each is in their code."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()
PACKAGES = {"DVC": ("dvc",), "MLflow": ("mlflow",), "BentoML": ("bentoml", "_bentoml_impl")}
"""Great Expectations passes on messages of pandas, which are in compiled code."""


def messages(title: str) -> list[str]:
    """The longest literal part of each message in the first column; a message has several words."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    quoted = [text for row in section.splitlines() for text in re.findall(r"`([^`]*)`", row.split(" | ")[0])]
    parts = (max(re.split(r"…|[(:'\"{}]", text), key=len).strip() for text in quoted)
    return [part for part in parts if part.count(" ") >= 2 and not part.startswith(("dvc ", "kill "))]


def code_of(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    text = "".join(
        path.read_text(encoding="utf-8", errors="replace") for path in Path(spec.origin).parent.rglob("*.py")
    )
    # Long messages are written in several pieces.
    return re.sub(r"\"\s*\n\s*f?\"", "", text).replace("%s", "docker")


@pytest.mark.parametrize("title", PACKAGES)
def test_every_message_is_one_of_its_package(title: str) -> None:
    code, found = "".join(map(code_of, PACKAGES[title])), messages(title)
    assert len(found) >= 3
    assert [message for message in found if message not in code] == []
