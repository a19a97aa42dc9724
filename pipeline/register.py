"""Register the evaluated model and decide whether it is champion; not a DVC stage, for a registry is a side effect.

Reads: data/model, data/evaluation, data/prepared, data/features
Writes: data/registration (docs/contracts.md lists it file by file), and a version of the registered model with its aliases
Params: register, evaluate

Where there is a champion, it and this model draw the same seeds and are judged by the extractor and the held-out images
of now, each in a process of its own; what was once written down about the champion counts for nothing. The same model
twice makes no second version.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.artefacts.files import locked, read_document, replacing, write_json
from pipeline.artefacts.model import model_digest
from pipeline.errors import ArtefactError, FoundryError
from pipeline.evaluation.apply_tuning import apply_tuning
from pipeline.params import load_params
from pipeline.provenance import lineage
from pipeline.provenance.git import main_worktree
from pipeline.registry.aliases import ChampionChangedError, Decision
from pipeline.registry.comparison import EvaluationSetup
from pipeline.registry.model_card import model_card
from pipeline.registry.registry import Candidate, Registry, download
from pipeline.registry.verdict import Verdict, verdict
from pipeline.tracking import store

LASTING_FACTS = {"git.commit", "git.branch", "dvc.lock.md5", "data.md5"}
MOST_ATTEMPTS = 3
"""Each may find that another registration was quicker."""


def main(model: Path, evaluation: Path, prepared: Path, features: Path, out: Path) -> None:
    refuse_experiments()

    params = load_params()
    arena = EvaluationSetup(prepared=prepared, features=features, params=params)
    with locked(main_worktree() / ".foundry" / "register.lock"):
        said = register(params.register_.model_name, model, evaluation, out, arena)
    sys.stdout.write(f"{said}\n")


def refuse_experiments() -> None:
    """Experiments never promote.

    Raises:
        FoundryError: this is one.

    """
    if experiment := os.environ.get("DVC_EXP_NAME"):
        raise FoundryError(
            f"DVC_EXP_NAME: experiments never promote (this is {experiment}): `dvc exp apply {experiment}` first"
        )


def register(name: str, trained: Path, evaluation: Path, out: Path, arena: EvaluationSetup) -> str:
    """Register the model in `trained`, tuned as `evaluation` says; returns in one line what has become of it.

    Raises:
        ArtefactError: a file is missing or does not fit.
        StoreError: the registry does not answer; what was made of the model stays in `out`.

    """
    candidate = make_candidate(trained, evaluation, out)
    for _ in range(MOST_ATTEMPTS - 1):
        with suppress(ChampionChangedError):
            return _register(name, candidate, arena)
        sys.stderr.write(f"{name}: another registration has made its model champion meanwhile; deciding again\n")
    return _register(name, candidate, arena)


def make_candidate(trained: Path, evaluation: Path, out: Path) -> Candidate:
    """What the registry is to be given; the tuned model is written into `out`."""
    metrics, trained_digest = read_metrics(evaluation / "metrics.json"), model_digest(trained)
    model = apply_tuning(trained, evaluation / "tuning.json", out / "model")
    return Candidate(
        folder=out / "model",
        model=model,
        trained_digest=trained_digest,
        metrics=metrics,
        evidence=out / "decision.json",
        card="",
        tags={
            **{key: value for key, value in lineage.facts().items() if key in LASTING_FACTS},
            "model.trained_digest": trained_digest,
            "data.digest": str(model.description.provenance.get("data_digest", "unknown")),
        },
    )


def read_metrics(path: Path) -> dict[str, float]:
    """The evaluation's numbers by name.

    Raises:
        ArtefactError: the file is missing, or holds something else.

    """
    document = read_document(path)
    numbers = {key: float(value) for key, value in document.items() if isinstance(value, int | float)}
    if others := sorted(document.keys() - numbers.keys()):
        raise ArtefactError(f"{path}: {others[0]}: should be a number (got {document[others[0]]!r})")
    return numbers


def _register(name: str, candidate: Candidate, arena: EvaluationSetup) -> str:

    try:
        with store.answering():
            registry = Registry(name)
            registry.succession.complete()
            registry.discard_half_made(candidate.model.digest)
            version, champion = registry.version_of(candidate.model.digest), registry.aliases().get("champion")
            folder = download(f"models:/{name}/{champion}") if champion and not version else None
    except store.StoreError:
        _write_decision(candidate, "undecided")
        raise
    if version:
        _write_decision(candidate, "unchanged", champion=champion, challenger=version)
        return f"{name} version {version} is this model already; the champion is version {champion}"

    found = verdict(candidate.metrics, candidate.folder, folder, arena, candidate.evidence.parent)
    word = "accept" if found.is_accepted else "reject"
    _write_decision(candidate, word, verdict=found, champion=champion)
    card = _write_card(name, candidate, arena)
    with store.answering():
        decided = replace(candidate, tags={**candidate.tags, "decision": word}, card=card)
        version = registry.add(decided, Decision(accepted=found.is_accepted, against=champion, why=found.why))
    return f"{name} version {version} is {'champion' if found.is_accepted else 'challenger'}: {found.why}"


def _write_decision(
    candidate: Candidate,
    word: str,
    *,
    verdict: Verdict | None = None,
    champion: str | None = None,
    challenger: str | None = None,
) -> None:

    document = {
        "decision": word,
        "rules": [asdict(rule) for rule in verdict.rules] if verdict else [],
        "comparison": verdict.comparison if verdict else None,
        "champion": champion,
        "challenger": challenger,
        "model_digest": candidate.model.digest,
    }
    write_json(candidate.evidence, document)


def _write_card(name: str, candidate: Candidate, arena: EvaluationSetup) -> str:

    # A first model may be registered where its data are not.
    validation = arena.prepared / "validation.json"
    card = model_card(
        name,
        description=candidate.model.description,
        digest=candidate.model.digest,
        metrics=candidate.metrics,
        params=arena.params,
        validation=read_document(validation) if validation.exists() else {},
        decision=read_document(candidate.evidence),
    )
    with replacing(candidate.evidence.with_name("MODEL_CARD.md")) as temporary:
        temporary.write_text(card, encoding="utf-8")
    return card


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["model", "register", *sys.argv[1:]])
