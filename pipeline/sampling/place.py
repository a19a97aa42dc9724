"""Where a set is kept: a folder, or a prefix of a bucket by its URL, through fsspec."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.artefacts.files import replacing
from pipeline.errors import FoundryError


class Place:
    """Files by name, each of which is there whole or not at all: a rename in a folder, one `put` in an object store."""

    def __init__(self, url: str) -> None:
        """Open a folder or a URL, as `s3://bucket/prefix`; nothing is written.

        Raises:
            FoundryError: the protocol is unknown, or its package is missing.
        """
        self.url = url.rstrip("/")
        protocol, colon, _ = url.partition("://")
        if colon and len(protocol) == 1:
            # Which fsspec takes for a drive of Windows, and so for a folder here.
            raise FoundryError(f"{url}: Protocol not known: {protocol}")
        try:
            # Other processes add files.
            self._files, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise FoundryError(f"{url}: {error}") from None

    def __str__(self) -> str:
        return self.url

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it does not exist."""
        with self._naming(name):
            try:
                content: bytes = self._files.cat_file(f"{self._root}/{name}")
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file."""
        if isinstance(self._files, LocalFileSystem):
            folder = Path(self._root)
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / name) as temporary:
                temporary.write_bytes(content)
            return
        with self._naming(name):
            self._files.pipe_file(f"{self._root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file that another process may have removed already."""
        with self._naming(name), suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    def names(self) -> set[str]:
        """The names of all files."""
        with self._naming(""):
            try:
                # A store may list the prefix itself, as an object without content.
                paths = {path.rstrip("/") for path in self._files.ls(self._root, detail=False)}
                return {Path(path).name for path in paths - {self._root.rstrip("/")}}
            except FileNotFoundError:
                return set()

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Convert whatever error of a store to one that names the file: each store has exceptions of its own."""
        try:
            yield
        except Exception as error:
            raise FoundryError(f"{self.url}/{name}: {error}") from error
