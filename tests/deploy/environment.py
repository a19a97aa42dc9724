"""The environment of a script that knows no user, no tracking server and no GitHub."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_", "GIT", "GH_"))}
    names = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "nobody")
    mails = dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "nobody@example.org")
    return {**kept, **names, **mails, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(ROOT), **changes}
