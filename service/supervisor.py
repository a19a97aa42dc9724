"""`bentoml serve`, for a terminal: Ctrl-C drains the service and says what it waits for; a second one ends it.

BentoML's own supervisor waits for open requests in silence, and takes no notice of a second Ctrl-C.
"""

import os
import sys
from contextlib import suppress

import circus.controller
import psutil
from bentoml_cli.cli import cli
from circus.sighandler import SysHandler

from pipeline.errors import FoundryError
from service import drain


class Supervisor(SysHandler):  # type: ignore[misc]  # circus has no types
    """BentoML's handler of signals, but for SIGINT."""

    is_ending = False

    def handle_int(self) -> None:
        """Drain and quit, or end at once if that was asked before."""
        if Supervisor.is_ending:
            for worker in psutil.Process().children(recursive=True):
                worker.kill()
            os._exit(130)
        Supervisor.is_ending = True
        # A service that is still loading its model has no open request.
        with suppress(FoundryError):
            if number := drain.drain(int(os.environ["FOUNDRY_PORT"])):
                sys.stderr.write(f"waiting for {drain.open_requests(number)}; Ctrl-C again ends at once\n")
        self.quit()


def main() -> None:
    """Run `bentoml serve` with the arguments of this process."""
    # The class that circus, below BentoML, makes its handler of; it has no setting.
    circus.controller.SysHandler = Supervisor
    cli(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    main()
