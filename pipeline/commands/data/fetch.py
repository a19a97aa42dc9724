"""Download the demo's raw data, Fashion-MNIST, into a folder and check it (`foundry data fetch`).

Fashion-MNIST is 60,000 + 10,000 grey images of 28x28 pixels in 10 classes (Xiao et al. 2017, arXiv 1708.07747; MIT
licence). Two sources are tried in order: Debian's package `dataset-fashion-mnist`, for machines that reach only package
registries, and the dataset's public address. Both compress the files, each in its own way, so the decompressed files are
stored and compared with SHA-256 digests.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pipeline.artefacts.files import file_digest, replacing
from pipeline.errors import FoundryError
from pipeline.provenance.dvc import read_yaml

Source = Callable[[Path, Iterable[str]], Path]
"""Downloads files by name into an empty folder, and returns the folder that holds them as `<name>.gz`."""

FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of each decompressed file."""

RECORDED_MD5 = "5f974fc07a228533b94e96f0786e9bcc.dir"
"""The MD5 that DVC records for a folder with these files."""

PACKAGE = "dataset-fashion-mnist"
ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
TIMEOUT_SEC = 60
MAX_BYTES = 2**26
"""Largest download, 64 MiB; the largest of the files has 26 MB compressed."""
COMMAND_TIMEOUT_SEC = 300


class SourceError(Exception):
    """A source is unavailable or delivers other files; the next one is tried."""


def fetch(out: Path, files: Mapping[str, str] = FASHION_MNIST, sources: Mapping[str, Source] | None = None) -> None:
    """Download the missing ones of `files` (name to SHA-256) into `out` from the first source that has them.

    Does nothing where DVC tracks other images.

    Raises:
        FoundryError: an existing file has another digest, or no source has the files.
    """
    if holds_other_images(out):
        _print(
            f"{out}.dvc records other images than the demo's: they stay (`dvc pull {out}` gets them from the remote)"
        )
        return
    missing = missing_files(out, files)
    if not missing:
        _print(f"{out}: all {len(files)} files exist and have the right SHA-256")
        return
    out.mkdir(parents=True, exist_ok=True)
    failures = []
    for name, source in (sources or SOURCES).items():
        _print(f"fetching Fashion-MNIST from {name}")
        try:
            with tempfile.TemporaryDirectory() as scratch:
                folder = source(Path(scratch), missing)
                for file, sha256 in missing.items():
                    decompress(folder / f"{file}.gz", out / file, sha256)
        except SourceError as error:
            _print(f"  failed: {error}")
            failures.append(f"{name}: {error}")
        else:
            _print(f"{out}: {len(missing)} files written, SHA-256 checked")
            return
    raise FoundryError("\n".join([f"{out}: no source has Fashion-MNIST", *failures]))


def holds_other_images(out: Path) -> bool:
    """Whether DVC tracks other images in this place, which the demo's would spoil."""
    outs = read_yaml(out.with_name(f"{out.name}.dvc")).get("outs") or []
    return any(each.get("md5") != RECORDED_MD5 for each in outs)


def missing_files(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Return the files that do not exist yet.

    Raises:
        FoundryError: a file exists with another digest; it is never replaced.
    """
    found = {name: file_digest(folder / name) for name in files if (folder / name).exists()}
    wrong = [
        f"{folder / name}: SHA-256 {digest}, wanted {files[name]}; remove the file to fetch it again"
        for name, digest in found.items()
        if digest != files[name]
    ]
    if wrong:
        raise FoundryError("\n".join(wrong))
    return {name: sha256 for name, sha256 in files.items() if name not in found}


def decompress(compressed: Path, path: Path, sha256: str) -> None:
    """Decompress a .gz file to `path`, provided that the content has the digest `sha256`."""
    with replacing(path) as partial:
        try:
            with gzip.open(compressed) as source, partial.open("wb") as target:
                shutil.copyfileobj(source, target)
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{compressed.name}: {error}") from None
        if (found := file_digest(partial)) != sha256:
            raise SourceError(f"{path.name}: SHA-256 {found}, wanted {sha256}")


def debian_package(scratch: Path, _names: Iterable[str]) -> Path:
    """Download and unpack the Debian package without root."""
    try:
        run(["apt-get", "download", PACKAGE], scratch)
    except SourceError as error:
        # A new machine has no package lists and updating its own takes root, so update lists in a private folder.
        _print(f"  {error}; updating the package lists in a private folder")
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        private = [
            f"-oDir::State={scratch}/state",
            f"-oDir::State::lists={scratch}/state/lists",
            f"-oDir::Cache={scratch}/cache",
        ]
        run(["apt-get", *private, "update"], scratch)
        run(["apt-get", *private, "download", PACKAGE], scratch)
    packages = list(scratch.glob(f"{PACKAGE}_*.deb"))
    if len(packages) != 1:
        raise SourceError(f"apt-get download left {len(packages)} packages, wanted 1")
    run(["dpkg-deb", "-x", str(packages[0]), "unpacked"], scratch)
    return scratch / "unpacked/usr/share/datasets/fashion-mnist"


def run(command: list[str], folder: Path) -> None:
    """Run a system command in `folder`; the last line of its output is the reason of a SourceError."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    limit = COMMAND_TIMEOUT_SEC
    try:
        done = subprocess.run(  # noqa: S603 - constant commands
            command, cwd=folder, env=env, check=False, capture_output=True, text=True, errors="replace", timeout=limit
        )
    except FileNotFoundError:
        raise SourceError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"{command[0]} took more than {limit} s") from None
    if done.returncode:
        lines = f"{done.stdout}\n{done.stderr}".strip().splitlines() or ["no message"]
        raise SourceError(f"{command[0]}: {lines[-1]}")


def public_address(scratch: Path, names: Iterable[str], address: str = ADDRESS) -> Path:
    """Download the files over HTTP, which is safe because their content is checked."""
    for name in names:
        url = f"{address}/{name}.gz"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SEC) as response:  # noqa: S310 - a constant http address
                (scratch / f"{name}.gz").write_bytes(response.read(MAX_BYTES))
        except OSError as error:
            raise SourceError(f"{url}: {error}") from None
    return scratch


SOURCES: dict[str, Source] = {f"Debian's package {PACKAGE}": debian_package, ADDRESS: public_address}


def _print(line: str) -> None:
    sys.stderr.write(f"{line}\n")
