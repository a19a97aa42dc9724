"""What the service needs: its source files, the packages of pyproject.toml, and all that these require."""

import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.errors import FoundryError

ROOT = Path(__file__).parents[2]
SOURCES = (
    "service/**/*",
    "pipeline/__init__.py",
    "pipeline/__main__.py",
    "pipeline/address.py",
    "pipeline/cli.py",
    "pipeline/cpus.py",
    "pipeline/device.py",
    "pipeline/environment.py",
    "pipeline/errors.py",
    "pipeline/artefacts/**/*",
    "pipeline/diffusion/**/*",
)
"""The service's code, as the Dockerfile copies it."""


def sources() -> list[Path]:
    """The files of the service, relative to the project, sorted."""
    found = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern))
    return [path.relative_to(ROOT) for path in found if path.is_file() and "__pycache__" not in path.parts]


def direct() -> list[Requirement]:
    """Requirements of the service in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["serve"])]


def served() -> dict[str, Distribution]:
    """All packages of the service as they are installed here, by name, in alphabetical order.

    Raises:
        FoundryError: one is not installed.
    """
    found: dict[str, Distribution] = {}
    waiting = direct()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise FoundryError(f"{name}: the service needs it; `make install` installs it") from None
        waiting += needs(found[name], requirement.extras)
    return dict(sorted(found.items()))


def pinned() -> list[str]:
    """The lines `name==version` of constraints.txt that are about packages of the service."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    packages = served()
    return [line for line in lines if canonicalize_name(line.split("==")[0]) in packages]


def needs(package: Distribution, extras: Iterable[str] = ()) -> Iterator[Requirement]:
    """Requirements of an installed package with these extras, as far as they apply to this machine."""
    for line in package.requires or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement
