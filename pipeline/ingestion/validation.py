"""Results of the data checks: the content of validation.json. Great Expectations is not needed to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import read_document
from pipeline.errors import ArtefactError
from pipeline.ingestion.sources.raw import listed


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    """Result of one check."""

    success: bool
    observed: float | None
    """The value, count or share that was compared; None where there was none or the check failed to run."""
    wanted: str
    """The limit, in words."""
    error: str | None = None
    """Message of the exception if the check failed to run."""
    remedy: str | None = None
    """What to do if the check failed."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Classes at fault, with their numbers of images."""
    files: tuple[str, ...] = ()
    """The first of the files at fault."""

    def document(self) -> dict[str, Any]:
        """The check as an object of validation.json; empty fields are left out."""
        document = {"success": self.success, "observed": self.observed, "wanted": self.wanted}
        more = {"error": self.error, "remedy": self.remedy, "classes": dict(self.classes), "files": [*self.files]}
        return document | {name: value for name, value in more.items() if value}

    def finding(self, name: str) -> str:
        """The failed check in words; further lines name the classes and files at fault, and what to do."""
        if self.error:
            return f"{name}: the check failed to run: {self.error}"
        lines = [f"{name}: found {self.observed}, wanted {self.wanted}"]
        classes = [f"{each} ({count})" for each, count in self.classes.items()]
        named = (("classes", classes), ("files", [*self.files]))
        lines += [f"  {title}: {listed(names)}" for title, names in named if names]
        return "\n".join([*lines, *([f"  {self.remedy}"] if self.remedy else [])])


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """Results of all checks of a manifest, and how many images it has of each kind."""

    checks: Mapping[str, ExpectationResult]
    counts: Mapping[str, int]
    """Images `found`, `train`, `held_out`, `quarantined` and `duplicates`."""

    @property
    def success(self) -> bool:
        """Whether every check passed."""
        return all(result.success for result in self.checks.values())

    def document(self) -> dict[str, Any]:
        """The content of validation.json."""
        checks = {name: result.document() for name, result in self.checks.items()}
        return {"success": self.success, "checks": checks, "counts": dict(self.counts)}

    def metrics(self) -> dict[str, float]:
        """All counts, and what each check observed, by name."""
        observed = {name: result.observed for name, result in self.checks.items()}
        return {name: value for name, value in (observed | dict(self.counts)).items() if value is not None}

    def findings(self) -> list[str]:
        """One for each check that did not pass."""
        return [result.finding(name) for name, result in self.checks.items() if not result.success]

    @classmethod
    def read(cls, path: Path) -> ValidationReport:
        """Read validation.json.

        Raises:
            ArtefactError: the file is missing or is not such a report.
        """
        document = read_document(path, stage="prepare")
        try:
            checks = {name: _result(check) for name, check in document["checks"].items()}
            return cls(checks, {name: int(count) for name, count in document["counts"].items()})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtefactError(f"{path}: not a report of the stage `prepare` ({error!r}); run it again") from None


def _result(check: dict[str, Any]) -> ExpectationResult:
    return ExpectationResult(**{**check, "files": tuple(check.get("files", ()))})
