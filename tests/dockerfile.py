"""The instructions of the Dockerfile."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def arguments_of(instruction: str) -> list[str]:
    """The arguments of every such instruction, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return re.findall(rf"^{instruction}\s+(.*)$", text, re.MULTILINE)
