"""Register the evaluated model and decide whether it is champion; not a DVC stage, for a registry is a side effect.

Reads: data/model, data/evaluation
Writes: data/registration (decision.json, model/), and a version of the registered model with its aliases
Params: register

The same model twice makes no second version.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import command

if TYPE_CHECKING:
    from pipeline.diffusion.artefact import Description, Model
    from pipeline.promotion import Rule

LASTING_FACTS = {"git.commit", "git.branch", "dvc.lock.md5", "data.md5"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.register", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--evaluation", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args()
    refuse_experiments()

    from pipeline.params import load_params
    from pipeline.records.lineage import main_worktree
    from pipeline.records.outbox import locked

    name = load_params().register_.model_name
    with locked(main_worktree() / ".foundry" / "register.lock"):
        sys.stdout.write(f"{register(name, arguments.model, arguments.evaluation, arguments.out)}\n")


def refuse_experiments() -> None:
    """Experiments never promote.

    Raises:
        FoundryError: this is one.

    """
    from pipeline.diffusion.errors import FoundryError

    if experiment := os.environ.get("DVC_EXP_NAME"):
        raise FoundryError(
            f"DVC_EXP_NAME: experiments never promote (this is {experiment}): `dvc exp apply {experiment}` first"
        )


def register(name: str, trained: Path, evaluation: Path, out: Path) -> str:
    """Register the model in `trained`, tuned as `evaluation` says; returns in one line what has become of it.

    Raises:
        ArtefactError: a file is missing or does not fit.
        StoreError: the registry does not answer; what was made of the model stays in `out`.

    """
    from pipeline import promotion
    from pipeline.diffusion.artefact import model_digest
    from pipeline.diffusion.files import write_json
    from pipeline.records import store
    from pipeline.records.registry import NEW, Candidate, Registry

    metrics, trained_digest = read_metrics(evaluation / "metrics.json"), model_digest(trained)
    model = write_tuned(trained, evaluation / "tuning.json", out / "model")
    evidence = out / "decision.json"
    try:
        with store.answering():
            registry = Registry(name)
            version = registry.version_of(model.digest)
            if version is None:
                registry.discard_half_made(model.digest)
            aliases = registry.aliases()
            champion = aliases.get("champion")
            champion_metrics = registry.metrics(champion) if champion else None
    except store.StoreError:
        write_json(evidence, _decision("undecided", model))
        raise
    if version is not None:
        write_json(evidence, _decision("unchanged", model, champion=champion, challenger=version))
        return f"{name} version {version} is this model already; the champion is version {champion}"

    judged = promotion.rules(metrics, champion_metrics)
    accepted = promotion.is_accepted(judged)
    write_json(evidence, _decision("accept" if accepted else "reject", model, rules=judged, champion=champion))
    candidate = Candidate(
        folder=out / "model",
        model=model,
        trained_digest=trained_digest,
        metrics=metrics,
        evidence=evidence,
        tags=_tags(model, trained_digest, judged, champion),
    )
    with store.answering():
        version = registry.add(candidate, promotion.aliases_after(aliases, NEW, accepted=accepted))
    return f"{name} version {version} is {'champion' if accepted else 'challenger'}: {promotion.reason(judged)}"


def read_metrics(path: Path) -> dict[str, float]:
    """The evaluation's numbers by name.

    Raises:
        ArtefactError: the file is missing, or holds something else.

    """
    document = _read_json(path)
    numbers = {key: float(value) for key, value in document.items() if isinstance(value, int | float)}
    if others := sorted(document.keys() - numbers.keys()):
        from pipeline.diffusion.errors import ArtefactError

        raise ArtefactError(f"{path}: {others[0]}: should be a number (got {document[others[0]]!r})")
    return numbers


def write_tuned(trained: Path, tuning: Path, out: Path) -> Model:
    """Write to `out` the model in `trained` with what the evaluation has found about sampling it."""
    from pipeline.diffusion.artefact import WEIGHTS, load_model, write_description

    model = load_model(trained)
    description = _tuned(model.description, _read_json(tuning), tuning) if tuning.exists() else model.description
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(trained / WEIGHTS, partial / WEIGHTS)
    write_description(partial, description, model.schedule)
    tuned = load_model(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return tuned


def _tuned(description: Description, tuning: dict[str, Any], path: Path) -> Description:
    from pipeline.diffusion.artefact import SamplingDefaults, retuned
    from pipeline.diffusion.errors import ArtefactError

    timetables = {sampler: dict(by_steps) for sampler, by_steps in description.timetables.items()}
    try:
        for sampler, by_steps in tuning.get("timetables", {}).items():
            found = {steps: tuple(int(t) for t in times) for steps, times in by_steps.items()}
            timetables[sampler] = timetables.get(sampler, {}) | found
        sampling = SamplingDefaults(**{**asdict(description.sampling), **tuning.get("sampling", {})})
    except (TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{path}: {error}") from None
    return retuned(description, sampling=sampling, timetables=timetables, provenance=description.provenance)


def _decision(
    word: str,
    model: Model,
    *,
    rules: list[Rule] | None = None,
    champion: str | None = None,
    challenger: str | None = None,
) -> dict[str, Any]:
    return {
        "decision": word,
        "rules": [asdict(rule) for rule in rules or []],
        "champion": champion,
        "challenger": challenger,
        "model_digest": model.digest,
    }


def _tags(model: Model, trained_digest: str, judged: list[Rule], champion: str | None) -> dict[str, str]:
    """What a version says of itself."""
    from pipeline import promotion
    from pipeline.records import lineage

    accepted, found = promotion.is_accepted(judged), lineage.facts()
    lasting = {key: value for key, value in found.items() if key in LASTING_FACTS}
    promoted = {
        "promoted_from": champion or "none",
        "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "promoted_why": promotion.reason(judged),
    }
    return {
        **lasting,
        "model.trained_digest": trained_digest,
        "data.digest": str(model.description.provenance.get("data_digest", "unknown")),
        "decision": "accept" if accepted else "reject",
        **(promoted if accepted else {}),
    }


def _read_json(path: Path) -> dict[str, Any]:
    from pipeline.diffusion.errors import ArtefactError

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtefactError(f"{path}: {error.strerror}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ArtefactError(f"{path}: should be an object (got {type(document).__name__})")
    return document


if __name__ == "__main__":
    command.run(main)
