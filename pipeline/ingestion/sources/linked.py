"""Shards in a store: `shards.jsonl` in data/raw names tar files of a WebDataset or Parquet tables by their URLs.

`foundry data link URL` writes the list. For each file it holds size and version as the store names them (an ETag, or the time
of a change), so that data/raw.dvc names the content though DVC does not hold it, and a shard that has changed since is
refused. A worker downloads a shard whole and deletes it afterwards.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec

from pipeline.artefacts.files import canonical_json
from pipeline.errors import FoundryError
from pipeline.ingestion.sources import parquet, webdataset
from pipeline.ingestion.sources.layout import Split
from pipeline.ingestion.sources.raw import RawImage, RawSet, RawShard, is_ignored, listed

LIST = "shards.jsonl"
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
VERSIONS = ("ETag", "etag", "mtime")
"""Keys of fsspec's `info` that identify a file's content: of S3, of Google's and Azure's stores, of a folder."""


@dataclass(frozen=True, slots=True)
class Link:
    """A shard in a store."""

    name: str
    """Below the URL that was linked, `/` between parts."""
    url: str
    num_bytes: int
    version: str


def find(url: str) -> list[Link]:
    """All shards below a URL such as `s3://bucket/prefix`, sorted by name.

    Raises:
        FoundryError: there are none, or other files too; or the store cannot be read.
    """
    with _naming(url):
        files, root = fsspec.url_to_fs(url, use_listings_cache=False)
        found: Mapping[str, Mapping[str, Any]] = files.find(root, detail=True)
    names = {path: path.removeprefix(root).lstrip("/") for path in found}
    chosen = {path: name for path, name in names.items() if not any(map(is_ignored, name.split("/")))}
    if not chosen:
        raise FoundryError(f"{url}: found no files, wanted tar files of a WebDataset or Parquet tables")
    for suffixes in (TARS, (parquet.SUFFIX,)):
        if all(name.lower().endswith(suffixes) for name in chosen.values()):
            return [
                Link(name, files.unstrip_protocol(path), int(found[path]["size"]), _version(path, found[path]))
                for path, name in sorted(chosen.items(), key=lambda item: item[1])
            ]
    raise FoundryError(
        f"{url}: found {listed(sorted(chosen.values()))}, wanted tar files of a WebDataset or Parquet tables and nothing else; "
        "files of single images are copied: `foundry data add`"
    )


def write_links(links: Iterable[Link]) -> str:
    """The content of the list."""
    return "".join(json.dumps(asdict(link), ensure_ascii=False) + "\n" for link in links)


def read_links(path: Path) -> list[Link]:
    """Read the list.

    Raises:
        FoundryError: a line is no shard.
    """
    links = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            links.append(Link(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise FoundryError(f"{path}, line {number}: {error}; `foundry data link URL` writes it anew") from None
    return links


def read_linked(folder: Path, *, labelled: bool) -> RawSet:
    """Read the shards that the list in `folder` names.

    Raises:
        FoundryError: the list cannot be read, or is not alone.
    """
    others = sorted(path.name for path in folder.iterdir() if path.name != LIST and not is_ignored(path.name))
    if others:
        raise FoundryError(f"{folder}: found {listed(others)} beside {LIST}, wanted it alone")
    links = read_links(folder / LIST)
    splits = parquet.splits_of([link.name for link in links])
    return RawSet(tuple(_shard(link, splits[link.name], labelled=labelled) for link in links))


def _shard(link: Link, split: Split | None, *, labelled: bool) -> RawShard:
    version = canonical_json([*asdict(link).values(), split, labelled]).decode()
    return RawShard(partial(_images, link, split, labelled=labelled), num_bytes=link.num_bytes, version=version)


def _images(link: Link, split: Split | None, *, labelled: bool) -> Iterator[RawImage]:
    with TemporaryDirectory() as place:
        path = Path(place) / link.name.rpartition("/")[2]
        _download(link, path)
        if link.name.lower().endswith(parquet.SUFFIX):
            yield from parquet.images_of(path, link.name, split, labelled=labelled)
        else:
            yield from webdataset.images_of(path, link.name, labelled=labelled)


def _download(link: Link, path: Path) -> None:
    with _naming(link.url):
        files, root = fsspec.url_to_fs(link.url, use_listings_cache=False)
        files.get_file(root, str(path))
        found = _version(link.url, files.info(root))
    if (found, path.stat().st_size) != (link.version, link.num_bytes):
        raise FoundryError(
            f"{link.url}: has changed since it was linked: found {path.stat().st_size} bytes, version {found}, wanted "
            f"{link.num_bytes} bytes, version {link.version}; `foundry data link URL` takes it as it is now"
        )


def _version(url: str, info: Mapping[str, Any]) -> str:
    found = next((str(info[name]) for name in VERSIONS if info.get(name)), None)
    if found is None:
        raise FoundryError(f"{url}: its store names no version of a file ({', '.join(VERSIONS)}): copy it to data/raw")
    return found.strip('"')


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Convert whatever error of a store to one that names the URL: each store has exceptions of its own."""
    try:
        yield
    except FoundryError:
        raise
    except FileNotFoundError:
        raise FoundryError(f"{url}: not found") from None
    except Exception as error:
        raise FoundryError(f"{url}: {error}") from error
