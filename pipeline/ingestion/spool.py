"""A temporary file for prepared pixels until all images are examined and their splits are known."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.artefacts.files import naming

COPIED_AT_ONCE = 2**20


class PixelSpool:
    """Images of one shape, appended one after the other and read back in any order.

    The file has no name: it is gone when it is closed or the process is killed.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int]) -> None:
        """Open the file on the disk of `folder`; `shape` is height, width, channels."""
        self.shape = shape
        self._num_bytes = int(np.prod(shape))
        self._folder = folder
        with naming(folder):
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing flushes once more; `append` or `read` has reported a full disk already.
        with suppress(OSError):
            self._file.close()

    def append_file(self, pixels: Path) -> None:
        """Add images `[n, height, width, channels]` from a file without a header."""
        with naming(self._folder), pixels.open("rb") as file:
            shutil.copyfileobj(file, self._file, COPIED_AT_ONCE)

    def clear(self) -> None:
        """Drop all images."""
        self._file.seek(0)
        self._file.truncate()

    def read(self, positions: Iterable[int]) -> NDArray[np.uint8]:
        """Return the images with these positions in the order of appending: `[n, height, width, channels]`."""
        with naming(self._folder):
            self._file.flush()
        # Reads, not a memory map: a map's pages would count as this process's memory.
        rows = [os.pread(self._file.fileno(), self._num_bytes, int(at) * self._num_bytes) for at in positions]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), *self.shape)
