"""`foundry runs queue`: run the experiments that `dvc exp run --queue` has put into DVC's queue."""

import sys

from pipeline.provenance.dvc import dvc

FOLLOW = """\
follow:  dvc queue status        what waits, runs, has failed
         dvc queue logs NAME     what an experiment prints
         foundry runs list       the results
"""


def main(jobs: int) -> None:
    """Start workers, which go on in the background until the queue is empty.

    Raises:
        DvcError: DVC refuses.
    """
    sys.stdout.write(f"{dvc('queue', 'start', '--jobs', str(jobs))}\n{dvc('queue', 'status')}\n{FOLLOW}")
