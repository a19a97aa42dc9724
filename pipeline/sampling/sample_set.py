"""A set of images in shards: any process may draw any shard, at any time and more than once, and the bytes are the same.

The files are the queue. A process marks the shard that it begins, and prefers shards that nobody has begun; when there are
only begun ones left, it draws these too. So a mark is a hint and no lock: that of a killed process is in nobody's way, and
at the end the fastest process decides. docs/contracts.md lists the files.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pipeline.errors import ArtefactError, FoundryError
from pipeline.evaluation.samples import samples_file
from pipeline.inference.draw import BATCH_SIZE
from pipeline.sampling.arithmetic import arithmetic
from pipeline.sampling.drawing import Drawing
from pipeline.sampling.place import Place

FORMAT = 1
DESCRIPTION, SUMS, BEGUN = "set.json", "SHA256SUMS", ".begun"
NUM_NAMED = 3
"""Files that the error for a place with other files names."""
NUM_VERIFIED = BATCH_SIZE
"""Images of each shard that are drawn again: one batch."""


@dataclass(frozen=True, eq=False, slots=True)
class SampleSet:
    """Images 0 … num_images - 1 of a drawing, `shard_size` in each shard but the last."""

    drawing: Drawing
    num_images: int
    shard_size: int
    place: Place

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.shard_size)

    def numbers(self, shard: int) -> range:
        """The numbers of a shard's images."""
        first = shard * self.shard_size
        return range(first, min(first + self.shard_size, self.num_images))

    def num_images_in(self, shards: Sequence[int]) -> int:
        return sum(len(self.numbers(shard)) for shard in shards)

    def open(self) -> None:
        """Write what the set is, or compare it with what is written there.

        Raises:
            FoundryError: another set is there, or other files; the message names what differs, or some of them.
        """
        content = self.place.read(DESCRIPTION)
        if content is None:
            self._require_empty()
            self.place.write(DESCRIPTION, self._description())
        elif content != self._description():
            raise FoundryError("\n".join(self._differences(content)))

    def missing(self) -> list[int]:
        """The shards without a digest, those first that no process has begun, else in random order."""
        names = self.place.names()
        shards = np.random.default_rng().permutation(self.num_shards).tolist()
        missing = [shard for shard in shards if _digest_name(shard) not in names]
        return sorted(missing, key=lambda shard: _mark_name(shard) in names)

    def draw(self, shard: int, count: Callable[[int], object]) -> None:
        """Draw and write one shard, and last its digest; `count` is called with the size of each batch."""
        self.place.write(_mark_name(shard), b"")
        content = samples_file(self.drawing.samples(self.numbers(shard), count))
        # Two commands with different settings may both have found an empty place.
        self.open()
        self.place.write(_name(shard), content)
        self.place.write(_digest_name(shard), _sum_line(_name(shard), content))
        self.place.remove(_mark_name(shard))

    def finish(self) -> str:
        """Write the list of all digests, as `sha256sum` does, and remove killed processes' marks; returns the list's digest."""
        lines = [_sum_line(DESCRIPTION, self._description()), *map(self._recorded, range(self.num_shards))]
        content = b"".join(lines)
        self.place.write(SUMS, content)
        marks = {_mark_name(shard) for shard in range(self.num_shards)}
        for name in sorted(marks & self.place.names()):
            self.place.remove(name)
        return hashlib.sha256(content).hexdigest()

    def findings(self, shard: int) -> Iterator[str]:
        """Compare a shard with its digest, and `NUM_VERIFIED` of its images with the same drawn again."""
        file = f"{self.place}/{_name(shard)}"
        content = self.place.read(_name(shard))
        if content is None or _sum_line(_name(shard), content) != self._recorded(shard):
            state = "is missing" if content is None else f"does not have the digest in {_digest_name(shard)}"
            yield f"{file}: {state}; delete {_digest_name(shard)}, and the same command draws the shard again"
            return
        numbers = self.numbers(shard)
        rows = np.sort(np.random.default_rng().choice(len(numbers), min(len(numbers), NUM_VERIFIED), replace=False))
        again = self.drawing.samples([numbers[row] for row in rows], lambda _: None)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            differ = (arrays["images"][rows] != again.images).any(axis=(1, 2, 3))
        yield from (f"{file}: image {row} has other pixels when it is drawn again" for row in rows[differ])

    def _require_empty(self) -> None:
        """Refuse a place with files that no process leaves there before the description of its set."""
        names = self.place.names()
        others = sorted(name for name in names if not name.endswith(BEGUN) and not name.startswith(f".{DESCRIPTION}."))
        # Another process may have written the description meanwhile.
        if others and DESCRIPTION not in names:
            found = ", ".join(others[:NUM_NAMED]) + (", …" if len(others) > NUM_NAMED else "")
            raise FoundryError(
                f"{self.place}: is not empty and has no {DESCRIPTION}, so it is no set that was begun (found {found}); "
                "give another --out"
            )

    def _recorded(self, shard: int) -> bytes:
        content = self.place.read(_digest_name(shard))
        if content is None:
            raise ArtefactError(f"{self.place}/{_digest_name(shard)}: not found; run the same command again")
        return content

    def _description(self) -> bytes:
        settings = {
            each.name: getattr(self.drawing, each.name) for each in fields(self.drawing) if each.name != "model"
        }
        document = {
            "format": FORMAT,
            "model_digest": self.drawing.model.digest,
            "num_images": self.num_images,
            "shard_size": self.shard_size,
            **settings,
            "arithmetic": arithmetic(),
        }
        return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"

    def _differences(self, content: bytes) -> Iterator[str]:
        try:
            found, wanted = _flat(json.loads(content)), _flat(json.loads(self._description()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            yield f"{self.place}/{DESCRIPTION}: not the description of a set: {error}"
            return
        for name in sorted(found | wanted):
            if found.get(name) != wanted.get(name):
                yield (
                    f"{self.place}/{DESCRIPTION}: {name} is {found.get(name)!r}, this command has {wanted.get(name)!r}: "
                    "a set is drawn with the same settings on machines of one kind; give another --out for another set"
                )


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = document.pop("arithmetic")
    return document | facts


def _name(shard: int) -> str:
    return f"samples-{shard:06}.npz"


def _digest_name(shard: int) -> str:
    return f"{_name(shard)}.sha256"


def _mark_name(shard: int) -> str:
    return f"{_name(shard)}{BEGUN}"


def _sum_line(name: str, content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()
