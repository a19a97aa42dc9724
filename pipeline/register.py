"""Register the evaluated model and decide whether it becomes champion; not a DVC stage, because a registry is a side effect.

Reads: data/model, data/evaluation, data/prepared, data/features
Writes: data/registration (docs/contracts.md lists its files), and a version of the registered model
Params: register, evaluate

If there is a champion, both models are sampled with the same seeds and measured with the current extractor and held-out
images, each in a process of its own; earlier figures of the champion count for nothing. A model that is registered
already gets no second version, and keeps its decision unless it is to be judged again.
"""

import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.artefacts.files import locked, read_document, replacing, write_json
from pipeline.artefacts.model import load_model
from pipeline.errors import FoundryError
from pipeline.evaluation.recipe import recipe
from pipeline.evaluation.results import read_results
from pipeline.evaluation.tuning.apply import apply_tuning
from pipeline.params import Params, load_params
from pipeline.progress import waiting
from pipeline.provenance import lineage
from pipeline.provenance.git import main_worktree
from pipeline.registry.aliases import ChampionChangedError
from pipeline.registry.gate import promotion
from pipeline.registry.gate.comparison import Champion, LoadedModel, OtherTrainings, as_document, compare
from pipeline.registry.gate.comparison_result import ComparisonResult
from pipeline.registry.gate.evaluation_setup import EvaluationSetup
from pipeline.registry.gate.kid_difference import MAX_TRAININGS, PastEvaluation, estimate_spread
from pipeline.registry.gate.promotion import Decision
from pipeline.registry.gate.rule import outcome_of
from pipeline.registry.gate.second_judge import second_opinion
from pipeline.registry.history import NOBODY
from pipeline.registry.model_card import model_card
from pipeline.registry.registry import Candidate, Registry
from pipeline.registry.versions import download
from pipeline.tracking import store
from pipeline.tracking.past_runs import PastRuns
from pipeline.tracking.stage_times import timed
from pipeline.tracking.tags import ANCESTOR_TAG, DATA_TAG, EXTRACTOR_TAG, RECIPE_TAG, TRAINED_DIGEST_TAG

VERSION_FACTS = {"git.commit", "git.branch", "dvc.lock.md5", "data.md5"}
MAX_ATTEMPTS = 3
"""Each may find that another registration has changed the champion meanwhile."""


SAYS = {
    "accept": "is champion",
    "reject": "is challenger",
    "undecided": "is undecided and not champion (`foundry model promote` overrides)",
}


def main(model: Path, evaluation: Path, prepared: Path, features: Path, out: Path, *, again: bool) -> None:
    refuse_experiments()
    params = load_params()
    setup = EvaluationSetup(prepared=prepared, features=features, params=params)
    with timed("register"), locked(main_worktree() / ".foundry" / "register.lock"):
        outcome = register(params.register_.model_name, model, evaluation, out, setup, again=again)
    sys.stdout.write(f"{outcome}\n")


def refuse_experiments() -> None:
    """Refuse to register the model of a DVC experiment.

    Raises:
        FoundryError: this is one.
    """
    if experiment := os.environ.get("DVC_EXP_NAME"):
        raise FoundryError(
            f"DVC_EXP_NAME: experiments never promote (this is {experiment}): `dvc exp apply {experiment}` first"
        )


def register(
    name: str, trained: Path, evaluation: Path, out: Path, setup: EvaluationSetup, *, again: bool = False
) -> str:
    """Register the model in `trained`, tuned as `evaluation` found best; returns the outcome in one line.

    A model that is registered already is judged only if `again`, and not if it is champion.

    Raises:
        ArtefactError: a file is missing or does not fit.
        StoreError: the registry does not answer; `out` keeps the tuned model and decision.json.
    """
    candidate = tune(trained, evaluation, out / "model", setup.params)
    for _ in range(MAX_ATTEMPTS - 1):
        try:
            return _register(name, candidate, setup, out, again=again)
        except ChampionChangedError as error:
            sys.stderr.write(f"{error}; deciding again\n")
    return _register(name, candidate, setup, out, again=again)


def _register(name: str, candidate: Candidate, setup: EvaluationSetup, out: Path, *, again: bool) -> str:
    digest = candidate.model.digest
    try:
        with store.answering():
            registry = Registry(name)
            registry.repair(digest)
            version, champion = registry.version_of(digest), registry.aliases.champion()
    except store.StoreError:
        write_decision(out, Decision(decision="undecided", model_digest=digest))
        raise
    if version and (version == champion or not again):
        return restate(registry, version, champion, digest, out)

    rival = _champion(registry, champion) if champion else None
    comparison = compare(candidate, rival, setup, out, other_trainings(registry, candidate, champion))
    decision = replace(decide(candidate, rival, comparison, setup), version=version)
    if decision.is_accepted and comparison:
        decision = seen_by_second_judge(decision, comparison, setup, out)
    card = describe(name, candidate, decision, setup)
    return publish(registry, candidate, decision, card, out)


def _champion(registry: Registry, version: str) -> Champion:
    with store.answering():
        metrics = registry.metrics(version)
    return Champion.load(download(f"models:/{registry.name}/{version}"), version, metrics)


def other_trainings(registry: Registry, candidate: Candidate, champion: str | None) -> OtherTrainings:
    """What the registry and the history of runs know of trainings that differ from the two in their seed alone.

    Raises:
        StoreError: the registry does not answer.
    """
    with store.answering():
        theirs = registry.recipe(champion) if champion else None
        if champion is None or candidate.recipe == theirs:
            return OtherTrainings(is_one_recipe=theirs is not None)
        ours = registry.trainings(candidate.recipe, besides=candidate.model.digest) if candidate.recipe else []
        siblings = [each for each in registry.trainings(theirs, besides="") if each != champion] if theirs else []
        spread = estimate_spread(past_evaluations())
    models = [[_loaded(registry, each) for each in versions[: MAX_TRAININGS - 1]] for versions in (ours, siblings)]
    return OtherTrainings(challengers=models[0], champions=models[1], num_challengers=len(ours), spread=spread)


def _loaded(registry: Registry, version: str) -> LoadedModel:
    folder = download(f"models:/{registry.name}/{version}")
    return LoadedModel(folder=folder, model=load_model(folder))


def past_evaluations() -> list[PastEvaluation]:
    """The last evaluation of each model that the tracking store knows the recipe of."""
    error = f"{promotion.KID}_standard_error"
    return [
        PastEvaluation(
            recipe=f"{run.data.tags[RECIPE_TAG]} {run.data.tags.get(EXTRACTOR_TAG)}",
            kid=run.data.metrics[promotion.KID],
            standard_error=run.data.metrics[error],
        )
        for run in PastRuns().evaluations()
        # An evaluation that was killed has no figures.
        if {promotion.KID, error} <= run.data.metrics.keys()
    ]


def restate(registry: Registry, version: str, champion: str | None, digest: str, out: Path) -> str:
    """Write what was decided about a registered model before; returns it in one line."""
    with store.answering():
        decided = registry.decision(version)
    write_decision(out, Decision(decision=decided, champion=champion, version=version, model_digest=digest))
    if version == champion:
        return f"{registry.name} version {version} is this model already, and the champion"
    return (
        f"{registry.name} version {version} is this model already, decided before: {decided}; the champion is version "
        f"{champion or NOBODY} (`foundry model register --again` judges it again)"
    )


def tune(trained: Path, evaluation: Path, out: Path, params: Params) -> Candidate:
    """Apply the tuning of the evaluation, made by `params`, to the trained model, and write the result to `out`.

    Raises:
        ArtefactError: a file is missing or does not fit.
    """
    metrics, model = read_results(evaluation), load_model(trained)
    tuned = apply_tuning(model, trained, evaluation / "tuning.json", out)
    facts = {key: value for key, value in lineage.facts().items() if key in VERSION_FACTS}
    provenance, recipe_digest = tuned.description.provenance, recipe(model.description, params)
    known = {
        DATA_TAG: provenance.get("data_digest", "unknown"),
        ANCESTOR_TAG: provenance.get("ancestor_digest"),
        RECIPE_TAG: recipe_digest,
    }
    tags = {**facts, TRAINED_DIGEST_TAG: model.digest, **{tag: str(value) for tag, value in known.items() if value}}
    samples = evaluation / "grid.png"
    return Candidate(
        folder=out,
        model=tuned,
        trained_digest=model.digest,
        metrics=metrics,
        recipe=recipe_digest,
        tags=tags,
        samples=samples if samples.is_file() else None,
    )


def decide(
    candidate: Candidate, champion: Champion | None, comparison: ComparisonResult | None, setup: EvaluationSetup
) -> Decision:
    """Apply the rules for a first model, for one whose images are unlike the champion's, or for a comparison."""
    is_distilled = candidate.model.description.is_distilled
    if champion is None:
        rules = promotion.first_rules(candidate.metrics, is_distilled=is_distilled)
    elif comparison is None:
        rules = promotion.unlike_rules(candidate.metrics, candidate.image_format, champion.image_format)
    else:
        rules = promotion.rules(candidate.metrics, comparison, setup.params.register_, is_distilled=is_distilled)
    return Decision(
        decision=outcome_of(rules),
        rules=rules,
        comparison=as_document(comparison, setup) if comparison else None,
        champion=champion.version if champion else None,
        model_digest=candidate.model.digest,
    )


def seen_by_second_judge(
    decision: Decision, comparison: ComparisonResult, setup: EvaluationSetup, out: Path
) -> Decision:
    """The decision about a model that would be promoted, after another network has compared the same samples."""
    second = second_opinion(out / "challenger", out / "champion", setup)
    rules = [promotion.second_judge(comparison.kid, second), *decision.rules]
    document = {**(decision.comparison or {}), "second_judge": asdict(second) if second else None}
    return replace(decision, decision=outcome_of(rules), rules=rules, comparison=document)


def describe(name: str, candidate: Candidate, decision: Decision, setup: EvaluationSetup) -> str:
    """The model card."""
    # A first model may be registered on a machine without its data.
    validation = setup.prepared / "validation.json"
    return model_card(
        name,
        description=candidate.model.description,
        digest=candidate.model.digest,
        metrics=candidate.metrics,
        params=setup.params,
        validation=read_document(validation) if validation.exists() else {},
        decision=decision,
    )


def publish(registry: Registry, candidate: Candidate, decision: Decision, card: str, out: Path) -> str:
    """Write the decision and the card, create the version unless there is one, and decide about it; returns the outcome in one line.

    Raises:
        ChampionChangedError: another registration changed the champion after the comparison.
        StoreError: the registry does not answer; the files stay.
    """
    write_decision(out, decision)
    with replacing(out / "MODEL_CARD.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    with store.answering(), waiting("registering"):
        if version := decision.version:
            registry.judge_again(version, candidate, decision, card)
        else:
            version = registry.add(candidate, decision, card)
    return f"{registry.name} version {version} {SAYS[decision.decision]}: {decision.why}"


def write_decision(out: Path, decision: Decision) -> None:
    write_json(out / "decision.json", decision.document())


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["model", "register", *sys.argv[1:]])
