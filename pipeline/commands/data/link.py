"""`foundry data link`: a list of shards in a store, in place of their copies in data/raw."""

import sys
from pathlib import Path

from pipeline.artefacts.files import naming, replacing
from pipeline.artefacts.sizes import GIB
from pipeline.errors import FoundryError
from pipeline.ingestion.sources.linked import LIST, find, read_links, write_links
from pipeline.ingestion.sources.raw import is_ignored, listed
from pipeline.progress import waiting
from pipeline.provenance.dvc import dvc


def main(url: str, raw: Path) -> None:
    """Write the list, run `dvc add`, and print how it differs from the one before.

    Raises:
        FoundryError: data/raw holds images, or there are no shards below `url`; nothing is changed then.
    """
    others = (
        [path.name for path in raw.iterdir() if path.name != LIST and not is_ignored(path.name)] if raw.is_dir() else []
    )
    if others:
        raise FoundryError(f"{raw}: found {listed(sorted(others))}, wanted an empty folder: move the images away first")
    with waiting(f"listing {url}"):
        links = find(url)
    before = {link.name: link for link in read_links(raw / LIST)} if (raw / LIST).exists() else {}
    with naming(raw):
        raw.mkdir(parents=True, exist_ok=True)
    with replacing(raw / LIST) as temporary:
        temporary.write_text(write_links(links), encoding="utf-8")
    dvc("add", str(raw))
    num_new = sum(link.name not in before for link in links)
    num_changed = sum(link.name in before and before[link.name] != link for link in links)
    num_gone = len(before.keys() - {link.name for link in links})
    size = sum(link.num_bytes for link in links) / GIB
    sys.stdout.write(
        f"{raw / LIST}: {len(links)} shards, {size:,.2f} GiB: {num_new} new, {num_changed} changed, {num_gone} gone\n"
        f"apply it:  dvc repro\nkeep it:   git commit -m 'More images' {raw}.dvc\n"
    )
