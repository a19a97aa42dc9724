"""The software bill of materials of the service, in CycloneDX's JSON."""

from __future__ import annotations

from importlib.metadata import Distribution, version
from typing import Any

from packaging.utils import canonicalize_name

from pipeline.export import requirements


def bill() -> dict[str, Any]:
    """All packages of the service with their versions, licences and who needs whom (CycloneDX 1.6)."""
    packages = requirements.served()
    application = {"type": "application", "name": "diffusion-foundry", "version": version("diffusion-foundry")}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": application},
        "components": [_component(name, package) for name, package in packages.items()],
        "dependencies": [
            {"ref": _purl(name, package), "dependsOn": _needed(package, packages)} for name, package in packages.items()
        ],
    }


def _component(name: str, package: Distribution) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": _purl(name, package),
        "name": name,
        "version": package.version,
        "purl": _purl(name, package),
        "licenses": [{"license": {"name": _licence(package)}}],
    }


def _licence(package: Distribution) -> str:
    """As an expression, a classifier or a few words; some packages have the whole text there."""
    stated = package.metadata.json
    classifiers = [str(line) for line in stated.get("classifier", []) if line.startswith("License ::")]
    words = str(stated.get("license", ""))
    classified = ", ".join(line.split(" :: ")[-1] for line in classifiers)
    return str(stated.get("license_expression") or classified or words.split("\n", maxsplit=1)[0] or "not stated")


def _needed(package: Distribution, packages: dict[str, Distribution]) -> list[str]:
    names = {canonicalize_name(requirement.name) for requirement in requirements.needs(package)}
    return [_purl(name, packages[name]) for name in sorted(names & packages.keys())]


def _purl(name: str, package: Distribution) -> str:
    # The local part says which build it is; an advisory is about all of them.
    return f"pkg:pypi/{name}@{package.version.split('+')[0]}"
