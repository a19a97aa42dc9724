"""The space of a search: which params may have which values. A file in YAML, checked as a whole before anything runs.

    train.learning_rate: {low: 0.005, high: 0.05, log: true}
    train.batch_size: {low: 48, high: 144, step: 48}
    train.weighting: [min_snr, bounded_snr]
    train.network: [{}, {widths: [48, 96], num_blocks: 1}]

A mapping is a range with its ends, in steps of `step` or uniform in the logarithm with `log`. A list has choices; those of a
section change what they name and nothing else, so that `{}` is the section as it stands in params.yaml.
"""

import json
import math
import random
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Self

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import FoundryError
from pipeline.param_findings import suggestion
from pipeline.params import Params, ParamsError, Section, parse_params

SECTIONS = ("schedule", "train", "ancestor", "distil")
"""The sections that make a model. The others prepare or measure images: figures of trainings that differ in them cannot be compared."""
DIGITS = 4
"""Significant digits of a value between the ends of a range: what people type, and no search tells more of them apart."""
NUM_MIXTURES = 300
"""Points whose values are all at an end of their range or any choice, that are checked before the first training."""
Number = int | float


class SpaceError(FoundryError):
    """The file is no space of params.yaml; the message has one line per finding."""


class Bounds(Section):
    """A range as the file has it."""

    low: Number = Field(allow_inf_nan=False)
    high: Number = Field(allow_inf_nan=False)
    step: Number | None = Field(default=None, gt=0, allow_inf_nan=False)
    log: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers from `low` to `high`, or those in steps."""

    key: str
    distribution: IntDistribution | FloatDistribution

    @property
    def ends(self) -> tuple[Number, ...]:
        return self.distribution.low, self.distribution.high

    def value(self, suggested: Any) -> Any:
        return suggested if isinstance(suggested, int) else float(f"{suggested:.{DIGITS}g}")

    def suggestion(self, document: Mapping[str, Any]) -> Any:
        """What optuna would call the value in params.yaml; None if that is outside."""
        value = _at(document, self.key)
        inside = isinstance(value, Number) and self.distribution._contains(value)  # noqa: SLF001  # no public name
        return value if inside else None


@dataclass(frozen=True, slots=True)
class Choices:
    """Some values, of any type."""

    key: str
    ends: tuple[Any, ...]

    @property
    def distribution(self) -> CategoricalDistribution:
        # Optuna's storage has no lists and mappings.
        return CategoricalDistribution([json.dumps(value) for value in self.ends])

    def value(self, suggested: Any) -> Any:
        return json.loads(suggested)

    def suggestion(self, document: Mapping[str, Any]) -> Any:
        """What optuna would call the choice that params.yaml has; None if it has another value."""
        same = (value for value in self.ends if _with(document, leaves(self.key, value)) == document)
        return next((json.dumps(value) for value in same), None)


Dimension = Range | Choices
Changes = dict[str, Any]
"""Values by the dotted names of their params."""


@dataclass(frozen=True, slots=True)
class Space:
    """The params of a search with their values."""

    source: Mapping[str, Any]
    """The content of the space's file."""
    dimensions: tuple[Dimension, ...]

    @classmethod
    def read(cls, path: Path, document: Mapping[str, Any]) -> Self:
        """Read a file and check that every value may stand in params.yaml, whose valid content is `document`.

        Raises:
            SpaceError: it does not, or the file is no space; lists all findings.
        """
        source = _source(path)
        dimensions, findings = [], []
        for key, text in source.items():
            try:
                dimensions.append(_dimension(key, text, document))
            except SpaceError as error:
                findings.append(f"{path}: {key}: {error}")
        findings = findings or [*_wrong_values(path, dimensions, document)] or [*_repeated(path, dimensions)]
        findings = findings or [*_wrong_mixtures(path, dimensions, document)][:1]
        if findings:
            raise SpaceError("\n".join(findings))
        return cls(source, tuple(dimensions))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distributions by param."""
        return {each.key: each.distribution for each in self.dimensions}

    def changes(self, suggested: Mapping[str, Any]) -> Changes:
        """The change of params.yaml for a point that optuna suggests."""
        values = (leaves(each.key, each.value(suggested[each.key])) for each in self.dimensions)
        return {key: value for part in values for key, value in part.items()}

    def present(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The point at which params.yaml is, without the params that are outside of the space."""
        found = {each.key: each.suggestion(document) for each in self.dimensions}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def num_points(self) -> float:
        """Number of points; infinite if there is a range."""
        return math.prod(len(each.ends) if isinstance(each, Choices) else math.inf for each in self.dimensions)

    def points(self) -> list[dict[str, Any]]:
        """Every point, where there are choices alone."""
        keys = [each.key for each in self.dimensions]
        choices = [map(json.dumps, each.ends) for each in self.dimensions]
        return [dict(zip(keys, values, strict=True)) for values in product(*choices)]

    @property
    def changes_noise_levels(self) -> bool:
        """Whether held-out errors of two points may be those of different noise levels."""
        return any(each.key.startswith("schedule") for each in self.dimensions)


def leaves(key: str, value: Any) -> Changes:
    """The params below `key` that a value changes."""
    if not isinstance(value, dict):
        return {key: value}
    return {name: leaf for part in value for name, leaf in leaves(f"{key}.{part}", value[part]).items()}


def as_options(changes: Mapping[str, Any]) -> Iterator[str]:
    """`train.seed=1` for each change, in the syntax of `dvc exp run -S` and `foundry set`."""
    return (f"{key}={json.dumps(value)}" for key, value in changes.items())


def _source(path: Path) -> dict[str, Any]:
    try:
        source = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpaceError(f"{path}: not found") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(source, dict) or not source:
        raise SpaceError(
            f"{path}: should name params, like `train.learning_rate: {{low: 0.005, high: 0.05, log: true}}`"
        )
    return {str(key): value for key, value in source.items()}


def _dimension(key: str, text: Any, document: Mapping[str, Any]) -> Dimension:
    """Raises SpaceError, without the key: it is not one."""
    if isinstance(text, list):
        return _choices(key, text, document)
    if not isinstance(text, dict):
        raise SpaceError(f"should be a list of choices, or a range like {{low: 1, high: 2}} (got {json.dumps(text)})")
    present = _searchable(document, key)
    if isinstance(present, bool) or not isinstance(present, Number | None):
        raise SpaceError(f"is no number, but {json.dumps(present)} in params.yaml: a list of choices is wanted")
    return _range(key, text, is_real=isinstance(present, float))


def _choices(key: str, values: list[Any], document: Mapping[str, Any]) -> Choices:
    texts = [json.dumps(value) for value in values]
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise SpaceError(f"should be at least two different choices (got {json.dumps(values)})")
    for leaf in (leaf for value in values for leaf in leaves(key, value)):
        _searchable(document, leaf)
    return Choices(key, tuple(values))


def _searchable(document: Mapping[str, Any], key: str) -> Any:
    """The value of a param that a search may change; raises SpaceError if it may not, or there is none."""
    value, section = _at(document, key), key.partition(".")[0]
    if section not in SECTIONS:
        raise SpaceError(
            f"trainings that differ in {section} cannot be compared; a search changes {', '.join(SECTIONS)}"
        )
    if key == "train.seed":
        raise SpaceError("the best of several seeds is no better recipe; `foundry model settle` trains further seeds")
    return value


def _range(key: str, text: Mapping[str, Any], *, is_real: bool) -> Range:
    try:
        bounds = TypeAdapter(Bounds).validate_python(text, strict=True)
    except ValidationError as error:
        found = ((".".join(map(str, each["loc"][:1])), each["msg"], each["input"]) for each in error.errors())
        raise SpaceError("; ".join(dict.fromkeys(f"{where}: {why} (got {got})" for where, why, got in found))) from None
    if bounds.low >= bounds.high:
        raise SpaceError(f"high: should be above low {bounds.low} (got {bounds.high})")
    if bounds.log and (bounds.low <= 0 or bounds.step is not None):
        raise SpaceError("log: wants a low above 0, and no step")
    low, high, step = bounds.low, bounds.high, bounds.step
    if isinstance(low, int) and isinstance(high, int) and not isinstance(step, float) and not is_real:
        return Range(key, IntDistribution(low, high, log=bounds.log, step=step or 1))
    return Range(key, FloatDistribution(low, high, log=bounds.log, step=step))


def _at(document: Mapping[str, Any], key: str) -> Any:
    """The value of a param; raises SpaceError if there is none."""
    value: Any = document
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise SpaceError(f"params.yaml has no such key as {key}{suggestion(key, Params)}")
        value = value[part]
    return value


def _with(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The content of params.yaml with changes."""
    changed = deepcopy(dict(document))
    for key, value in changes.items():
        *sections, last = key.split(".")
        _at(changed, ".".join(sections))[last] = value
    return changed


def changed_params(document: Mapping[str, Any], changes: Mapping[str, Any], path: Path) -> Any:
    """The params with changes; errors name `path`.

    Raises:
        ParamsError: they are not valid.
    """
    return parse_params(_with(document, changes), path)


def _wrong_values(path: Path, dimensions: list[Dimension], document: Mapping[str, Any]) -> Iterator[str]:
    for each in dimensions:
        for value in each.ends:
            try:
                changed_params(document, leaves(each.key, value), path)
            except ParamsError as error:
                yield f"{error}, with {' '.join(as_options(leaves(each.key, value)))}"


def _repeated(path: Path, dimensions: list[Dimension]) -> Iterator[str]:
    """A param that two entries of the file change."""
    owners: dict[str, str] = {}
    for each in dimensions:
        for leaf in {leaf for value in each.ends for leaf in leaves(each.key, value)}:
            if (owner := owners.setdefault(leaf, each.key)) != each.key:
                yield f"{path}: {each.key}: {owner} changes {leaf} too"


def _wrong_mixtures(path: Path, dimensions: list[Dimension], document: Mapping[str, Any]) -> Iterator[str]:
    """Values that params.yaml may have one by one, but not together."""
    rng = random.Random(0)  # noqa: S311  # no secret
    for _ in range(NUM_MIXTURES):
        values = [(each.key, rng.choice(each.ends)) for each in dimensions]
        changes = {key: value for name, chosen in values for key, value in leaves(name, chosen).items()}
        try:
            changed_params(document, changes, path)
        except ParamsError as error:
            advice = "what belongs together can be choices of its section, like `train.network: [{patch_size: 1}, …]`"
            yield f"{error}, with {' '.join(as_options(changes))}; {advice}"
