"""The playground as one page: its style and scripts are put into it, so that it makes no further request."""

import base64
import functools
import hashlib
import re
from pathlib import Path

from service.errors import NotFoundError

FOLDER = Path(__file__).parents[1] / "static" / "playground"
STYLE = re.compile(r'<link rel="stylesheet" href="([\w.]+)">')
SCRIPT = re.compile(r'<script src="([\w.]+)"></script>')


@functools.cache
def playground() -> tuple[str, str]:
    """The page and its Content-Security-Policy, which allows only its own scripts and this server.

    Raises:
        NotFoundError: the files of the page are not installed.
    """
    try:
        page = STYLE.sub(lambda found: f"<style>\n{_read(found[1])}</style>", _read("page.html"))
        scripts = [_read(name) for name in SCRIPT.findall(page)]
    except FileNotFoundError:
        raise NotFoundError("the playground is not installed") from None
    following = iter(scripts)
    page = SCRIPT.sub(lambda _: f"<script>{next(following)}</script>", page)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
