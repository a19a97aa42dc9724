"""How a command of the pipeline ends: exit codes, one line a finding, no traceback for bad input."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pipeline.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import Callable


def run(main: Callable[[], None]) -> None:
    """Run `main` and leave the process with the exit code that docs/contracts.md gives its outcome."""
    try:
        main()
    except FoundryError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader went away (`… | head`): not our error, and nothing can be told to it any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A full disk or a folder that cannot be written: the machine's fault or the caller's, and it says which file.
        sys.stderr.write(f"{error.filename or 'system'}: {error.strerror or error}\n")
        sys.exit(FoundryError.exit_code)
