"""What the service needs of other packages: those that pyproject.toml names, and what these bring along."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.errors import FoundryError

ROOT = Path(__file__).parents[2]


def served() -> dict[str, Distribution]:
    """All packages of a served model by name, as they are installed here, in alphabetical order.

    Raises:
        FoundryError: one is not installed.

    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, Distribution] = {}
    _collect(map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["serve"]]), found)
    return dict(sorted(found.items()))


def pinned() -> list[str]:
    """The packages of a served model as `name==version`, by constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = served()
    return [line for line in lines if canonicalize_name(line.split("==")[0]) in wanted]


def needs(package: Distribution, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """What a package needs on this machine, with these of its extras."""
    for line in package.requires or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _collect(requirements: Iterable[Requirement], found: dict[str, Distribution]) -> None:
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise FoundryError(
                f"{name}: the service needs it and it is not installed; `make install` does it"
            ) from None
        _collect(needs(found[name], requirement.extras), found)
