"""Put the demo's raw data, Fashion-MNIST, into `data/raw` and check it.

Fashion-MNIST is 60,000 + 10,000 grey images of 28x28 pixels in 10 classes (Xiao et al. 2017, arXiv 1708.07747; MIT
licence). It comes from the first of these that answers: the files already there, Debian's package
`dataset-fashion-mnist` (unpacked without root), the data set's own public address. Each compresses the files in its
own way, so the decompressed files are kept and checked.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artefacts.files import replacing
from pipeline.errors import FoundryError

if TYPE_CHECKING:
    Source = Callable[[Path, Mapping[str, str]], Path]
    """Puts the .gz files, and whatever else it needs, into an empty folder, and says where the .gz files are."""

FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of each decompressed file."""

PACKAGE = "dataset-fashion-mnist"
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
TIMEOUT_SEC = 60


class SourceError(Exception):
    """A source does not answer, or not with what was asked for; the next one is tried."""


def fetch(out: Path, files: Mapping[str, str] = FASHION_MNIST, sources: Mapping[str, Source] | None = None) -> None:
    """Fill `out` with `files` (name -> SHA-256) from the first of `sources` that answers.

    Raises:
        FoundryError: a file there is another one, or no source answers.

    """
    missing = missing_files(out, files)
    if not missing:
        say(f"{out}: all {len(files)} files are there and right")
        return
    out.mkdir(parents=True, exist_ok=True)
    failures = []
    for name, source in (sources or SOURCES).items():
        say(f"fetching Fashion-MNIST from {name}")
        try:
            with tempfile.TemporaryDirectory() as scratch:
                found = source(Path(scratch), missing)
                for file, sha256 in missing.items():
                    decompress(found / f"{file}.gz", out / file, sha256)
        except SourceError as error:
            say(f"  no: {error}")
            failures.append(f"{name}: {error}")
        else:
            say(f"{out}: {len(missing)} files written, SHA-256 checked")
            return
    raise FoundryError("\n".join([f"{out}: no source of Fashion-MNIST answers", *failures]))


def missing_files(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """What is not there yet; a file that is there with other content is refused, never replaced."""
    there = {name: sha256_of(folder / name) for name in files if (folder / name).exists()}
    wrong = [
        f"{folder / name}: SHA-256 {found}, wanted {files[name]}; remove the file to fetch it again"
        for name, found in there.items()
        if found != files[name]
    ]
    if wrong:
        raise FoundryError("\n".join(wrong))
    return {name: sha256 for name, sha256 in files.items() if name not in there}


def sha256_of(path: Path) -> str:
    if not path.is_file():
        raise FoundryError(f"{path}: is not a file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decompress(compressed: Path, path: Path, sha256: str) -> None:
    """Gunzip into place, but only when the content is the one wanted."""
    with replacing(path) as partial:
        try:
            with gzip.open(compressed) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{compressed.name}: {error}") from None
        found = sha256_of(partial)
        if found != sha256:
            raise SourceError(f"{path.name}: SHA-256 {found}, wanted {sha256}")


def debian_package(scratch: Path, _files: Mapping[str, str]) -> Path:
    """The folder of the .gz files inside of the unpacked package; needs no root."""
    try:
        run(["apt-get", "download", PACKAGE], scratch)
    except SourceError as error:
        # A new machine has no package lists, and refreshing its own takes root: use private ones.
        say(f"  {error}; refreshing the package lists in a private folder")
        private = private_apt(scratch / "apt")
        run(["apt-get", *private, "update"], scratch)
        run(["apt-get", *private, "download", PACKAGE], scratch)
    packages = sorted(scratch.glob(f"{PACKAGE}_*.deb"))
    if len(packages) != 1:
        raise SourceError(f"apt-get download left {len(packages)} packages")
    run(["dpkg-deb", "-x", str(packages[0]), str(scratch / "unpacked")], scratch)
    return scratch / "unpacked/usr/share/datasets/fashion-mnist"


def private_apt(folder: Path) -> list[str]:
    """Options for apt to keep its state and cache in `folder`; its sources stay the machine's."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    options = {
        "Dir::State": folder / "state",
        "Dir::State::lists": folder / "state/lists",
        "Dir::Cache": folder / "cache",
    }
    return [part for name, value in options.items() for part in ("-o", f"{name}={value}")]


def run(arguments: list[str], folder: Path) -> None:
    """Run a command of the system quietly; a failure's last line is the reason."""
    quiet = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(  # noqa: S603 - constant commands
            arguments, cwd=folder, env=quiet, check=True, capture_output=True, text=True, errors="replace", timeout=300
        )
    except FileNotFoundError:
        raise SourceError(f"{arguments[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"{arguments[0]} took more than 300 s") from None
    except subprocess.CalledProcessError as error:
        lines = f"{error.stdout}\n{error.stderr}".strip().splitlines() or ["no message"]
        raise SourceError(f"{arguments[0]}: {lines[-1]}") from None


def public_address(scratch: Path, files: Mapping[str, str], address: str = ADDRESS) -> Path:
    """`scratch` with the .gz files, downloaded; plain HTTP will do, since the content is checked."""
    for name in files:
        url = f"{address}/{name}.gz"
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT_SEC) as answer,  # noqa: S310 - a constant http address
                (scratch / f"{name}.gz").open("wb") as target,
            ):
                shutil.copyfileobj(answer, target, 1 << 20)
        except (OSError, urllib.error.URLError) as error:
            raise SourceError(f"{url}: {error}") from None
    return scratch


SOURCES: dict[str, Source] = {f"Debian's package {PACKAGE}": debian_package, ADDRESS: public_address}


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
