"""The software bill of materials of the service, as CycloneDX 1.6 JSON."""

from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, version
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline.artefacts.files import replacing
from pipeline.export import requirements

NAME = "diffusion-foundry"


def write_sbom(path: Path) -> None:
    """List all packages of the service with versions, licences and dependencies; equal packages give equal bytes.

    Raises:
        FoundryError: a package of the service is not installed.
    """
    packages = requirements.served()
    components = {name: _component(name, package) for name, package in packages.items()}
    application = Component(
        name=NAME, version=version(NAME), type=ComponentType.APPLICATION, bom_ref=f"{NAME}@{version(NAME)}"
    )
    serial = uuid5(NAMESPACE_URL, " ".join(str(each.bom_ref) for each in (application, *components.values())))
    bom = Bom(components=components.values(), metadata=BomMetaData(component=application), serial_number=serial)
    bom.metadata.timestamp = None  # type: ignore[assignment]  # optional in CycloneDX
    bom.register_dependency(application, _named(components, requirements.direct()))
    for name, package in packages.items():
        bom.register_dependency(components[name], _named(components, requirements.needs(package)))
    with replacing(path) as temporary:
        temporary.write_text(JsonV1Dot6(bom).output_as_string(indent=2) + "\n", encoding="utf-8")


def _named(components: Mapping[str, Component], needed: Iterable[Requirement]) -> list[Component]:
    names = {canonicalize_name(requirement.name) for requirement in needed}
    return [component for name, component in components.items() if name in names]


def _component(name: str, package: Distribution) -> Component:
    # An advisory is about every build of a version, so the local part (+cpu) is left out.
    purl = PackageURL("pypi", name=name, version=package.version.split("+")[0])
    return Component(
        name=name,
        version=package.version,
        purl=purl,
        bom_ref=str(purl),
        licenses=[DisjunctiveLicense(name=_licence(package))],
    )


def _licence(package: Distribution) -> str:
    """The licence expression, else the classifiers, else the first line of the licence field."""
    stated = package.metadata.json
    classifiers = [str(line) for line in stated.get("classifier", []) if line.startswith("License ::")]
    words = str(stated.get("license", ""))
    classified = ", ".join(line.split(" :: ")[-1] for line in classifiers)
    return str(stated.get("license_expression") or classified or words.split("\n", maxsplit=1)[0] or "not stated")
