"""Unpack an archive of images, if they fit on the disk.

Nothing is written before the sizes that the archive declares were compared with the free space: a few kilobytes may unpack to
terabytes. The declared sizes are an upper limit, since no more bytes of a member are read than its header declares.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.adoption.intake import require_space, utf8
from pipeline.artefacts.files import naming
from pipeline.errors import FoundryError
from pipeline.ingestion.sources.archive import DAMAGED, Member, OpenArchive, content_of, members_of, opened
from pipeline.ingestion.sources.raw import UnreadableError

BLOCK = 4096
"""Bytes of the smallest part of a disk that a file takes, as most file systems have it: empty files fill a disk too."""


def unpack(source: str, archive: Path, folder: Path) -> tuple[str, ...]:
    """Write the files of `archive`, which came from `source`, into `folder`; returns `path: reason` of what is left out.

    Raises:
        FoundryError: it is damaged, holds no files that can be read, or more than fit on the disk.
    """
    try:
        with opened(archive) as file:
            require_space(source, (_on_disk(member) for member in members_of(file)), folder)
            left_out = tuple(_unpacked(file, folder))
    except DAMAGED as error:
        raise FoundryError(f"{source}: not a readable archive: {error}") from None
    if not folder.exists():
        raise FoundryError("\n".join([f"{source}: no file in it can be read, wanted images", *left_out[:5]]))
    return left_out


def _unpacked(file: OpenArchive, folder: Path) -> Iterator[str]:
    """Write all members that can be read, and yield `path: reason` of the others."""
    for member in members_of(file):
        try:
            content = content_of(file, member, is_last=True)
        except UnreadableError as error:
            yield f"{utf8(member.name)}: {error}"
            continue
        path = folder.joinpath(*map(utf8, member.parts))
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _on_disk(member: Member) -> int:
    return max(BLOCK, -(-member.num_bytes // BLOCK) * BLOCK)
