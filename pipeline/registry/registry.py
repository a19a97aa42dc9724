"""The registered model in MLflow: create versions with their evidence, find them by model digest, download them.

A version is created in steps, of which the tag `registered_at` is the last. If a step fails, those before it are undone;
what a killed registration leaves has no such tag and is removed by the next.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.provenance import lineage
from pipeline.provenance.dvc import LOCK
from pipeline.provenance.git import worktree
from pipeline.provenance.process import ProcessId
from pipeline.registry import history, model_card
from pipeline.registry.aliases import Aliases
from pipeline.registry.gate.comparison import LoadedModel
from pipeline.registry.gate.promotion import Decision
from pipeline.registry.gate.rule import Outcome
from pipeline.registry.logged_model import link_to_runs, log_figures, save_logged_model
from pipeline.registry.versions import COMPLETE_TAG
from pipeline.tracking import pictures, store
from pipeline.tracking.tags import (
    DIGEST_TAG,
    NAME_TAG,
    NOTE_TAG,
    PARENT_TAG,
    PROCESS_TAG,
    RECIPE_TAG,
    SOURCE_TAG,
    STAGE_TAG,
    TRAINING_RUN_TAG,
    VERSIONS_TAG,
    WORKTREE_TAG,
)

LOGGED_MODEL = "models:/"
"""Prefix of a version's source; the id of its logged model follows."""
THUMBNAIL = "samples.png"
"""The artefact of a registration's run that the version's description shows."""
ABOUT = """Models that draw images. `foundry serve` serves the version with the alias *champion*; `foundry model history` says which
version was champion when, and why."""
COMMANDS = """## Commands

    foundry runs restore {uri}   # its code, params, data and model, in a folder of their own
    foundry sample --model {uri} --num-images 64 --out grid.png
    foundry serve --model {uri}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate(LoadedModel):
    """A model to register."""

    trained_digest: str
    """Digest of the model before tuning; the training run has it as a tag."""
    metrics: Mapping[str, float]
    recipe: str | None
    """Equal for models that differ in the seed of their training alone; None if it is not known."""
    tags: Mapping[str, str]
    samples: Path | None
    """A grid of samples, if there is one."""


class Registry:
    """The versions of one registered model."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._client = store.connect()
        self._experiment = store.experiment_id(self._client)
        self.aliases = Aliases(self._client, self._experiment, name)

    def metrics(self, version: str) -> dict[str, float]:
        """The metrics by which the model of a version was last judged; empty if this project did not register it."""
        source = str(self._client.get_model_version(self.name, version).source)
        if not source.startswith(LOGGED_MODEL):
            return {}
        metrics = self._client.get_logged_model(source.removeprefix(LOGGED_MODEL)).metrics or []
        # Those of a model that was judged again are there once for each time.
        return {metric.key: metric.value for metric in sorted(metrics, key=lambda metric: int(metric.timestamp))}

    def version_of(self, digest: str) -> str | None:
        """The version that holds the model with this digest."""
        complete = [version for version in self._versions(digest) if COMPLETE_TAG in version.tags]
        return str(complete[0].version) if complete else None

    def recipe(self, version: str) -> str | None:
        """The recipe of a version's model; None if it does not know it."""
        recipe: str | None = self._client.get_model_version(self.name, version).tags.get(RECIPE_TAG)
        return recipe

    def trainings(self, recipe: str, *, besides: str) -> list[str]:
        """The versions of a recipe, newest first, but for those that hold the model with the digest `besides`."""
        found = self._client.search_model_versions(f"name = '{self.name}' and tag.`{RECIPE_TAG}` = '{recipe}'")
        others = [each for each in found if COMPLETE_TAG in each.tags and each.tags[DIGEST_TAG] != besides]
        return [str(each.version) for each in sorted(others, key=lambda each: int(each.version), reverse=True)]

    def decision(self, version: str) -> Outcome:
        """The gate's last decision about a version."""
        decided: Outcome = self._client.get_model_version(self.name, version).tags["decision"]
        return decided

    def repair(self, digest: str) -> None:
        """Remove the remains of killed registrations of this model; complete a version that had already become champion."""
        if self.version_of(digest):
            return
        champion = self.aliases.champion()
        for version in self._versions(digest):
            if str(version.version) == champion:
                self._complete(champion)
                return
            if is_abandoned(version.tags):
                self._client.delete_model_version(self.name, version.version)
        wanted = f"name = '{self.name}' and tags.`{DIGEST_TAG}` = '{digest}'"
        for model in self._client.search_logged_models([self._experiment], wanted):
            if is_abandoned(model.tags):
                self._client.delete_logged_model(model.model_id)

    def add(self, candidate: Candidate, decision: Decision, card: str) -> str:
        """Log a model, create a version of it and apply the decision: all of it or nothing. Returns the version.

        Raises:
            ChampionChangedError: the champion is no longer the one that was decided against.
        """
        training = self._training_run(candidate.trained_digest)
        with self._run(training) as run_id:
            self._log_evidence(run_id, candidate, decision, card)
            tags = {
                DIGEST_TAG: candidate.model.digest,
                **process_tags(),
                **candidate.tags,
                **_verdict(decision),
            }
            logged = self._client.create_logged_model(self._experiment, self.name, run_id, tags, model_type="diffusion")
            try:
                self._upload(logged.model_id, candidate)
                log_figures(self._client, run_id, logged.model_id, candidate.metrics)
                version = self._create_version(logged.model_id, run_id, tags, decision, card)
                self.aliases.apply(decision.decision, version, decision.champion)
            except BaseException:
                # If the store went away, the next registration does it.
                with suppress(Exception):
                    self._undo(logged.model_id)
                raise
            self._describe(version, logged.model_id, run_id, candidate, card)
            link_to_runs(self._client, logged.model_id, candidate.trained_digest)
            self._complete(version)
            self._name_run(run_id, version, decision)
            self.aliases.show()
        return version

    def judge_again(self, version: str, candidate: Candidate, decision: Decision, card: str) -> None:
        """Apply another decision to the version that holds a model; the history keeps the earlier ones.

        Raises:
            ChampionChangedError: the champion is no longer the one that was decided against.
        """
        source = str(self._client.get_model_version(self.name, version).source)
        model_id = source.removeprefix(LOGGED_MODEL)
        with self._run(self._training_run(candidate.trained_digest)) as run_id:
            self._log_evidence(run_id, candidate, decision, card)
            log_figures(self._client, run_id, model_id, candidate.metrics)
            self.aliases.record(decision.decision, version, decision.champion, decision.why)
            for key, value in _verdict(decision).items():
                self._client.set_model_version_tag(self.name, version, key, value)
            self._describe(version, model_id, run_id, candidate, card)
            self._name_run(run_id, version, decision)

    def _name_run(self, run_id: str, version: str, decision: Decision) -> None:
        self._client.set_tag(run_id, NAME_TAG, f"{self.name} version {version}: {decision.decision}")
        self._client.set_tag(run_id, NOTE_TAG, decision.why)

    def _describe(self, version: str, model_id: str, run_id: str, candidate: Candidate, card: str) -> None:
        """Show the card with the version and its logged model, with a thumbnail of its samples and commands."""
        picture = f"![]({pictures.address(run_id, THUMBNAIL)})" if candidate.samples else ""
        description = model_card.description(card, picture, COMMANDS.format(uri=f"models:/{self.name}/{version}"))
        self._client.update_model_version(self.name, version, description=description)
        # A tracking server names the version with its logged model by itself, a local database does not.
        named = json.dumps([{"name": self.name, "version": version}])
        self._client.set_logged_model_tags(model_id, {NOTE_TAG: description, VERSIONS_TAG: named})

    def _log_evidence(self, run_id: str, candidate: Candidate, decision: Decision, card: str) -> None:
        self._client.log_dict(run_id, decision.document(), "decision.json")
        self._client.log_text(run_id, card, "MODEL_CARD.md")
        if candidate.samples:
            self._client.log_image(run_id, pictures.thumbnail(candidate.samples), THUMBNAIL)
        # For `foundry runs restore`: DVC writes dvc.lock after its stages, so none of their runs has it.
        for path in filter(Path.is_file, (Path(LOCK), Path("params.yaml"))):
            self._client.log_artifact(run_id, str(path))

    def _upload(self, model_id: str, candidate: Candidate) -> None:
        with TemporaryDirectory() as folder:
            save_logged_model(Path(folder) / "model", candidate.folder, candidate.model)
            self._client.log_model_artifacts(model_id, f"{folder}/model")
        self._client.finalize_logged_model(model_id, "READY")

    def _create_version(
        self, model_id: str, run_id: str, tags: Mapping[str, str], decision: Decision, card: str
    ) -> str:
        try:
            self._client.create_registered_model(self.name, description=ABOUT)
        except store.mlflow().exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        record = history.record(decision.decision, champion_before=decision.champion, why=decision.why)
        created = self._client.create_model_version(
            self.name,
            f"{LOGGED_MODEL}{model_id}",
            run_id,
            tags={**tags, **record},
            description=model_card.description(card),
            # A server refuses a source that names a logged model without it.
            model_id=model_id,
        )
        return str(created.version)

    def _complete(self, version: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._client.set_model_version_tag(self.name, version, COMPLETE_TAG, now)

    def _undo(self, model_id: str) -> None:
        """Delete a logged model and its version, unless that is champion: the answer may be lost of a call that took effect."""
        versions = self._client.search_model_versions(f"name = '{self.name}'")
        created = [each for each in versions if each.source == f"{LOGGED_MODEL}{model_id}"]
        if self.aliases.champion() in {str(each.version) for each in created}:
            return
        for each in created:
            self._client.delete_model_version(self.name, each.version)
        if created and len(versions) == len(created):
            self._client.delete_registered_model(self.name)
        self._client.delete_logged_model(model_id)

    def _versions(self, digest: str) -> list[Any]:
        found = self._client.search_model_versions(f"name = '{self.name}' and tag.`{DIGEST_TAG}` = '{digest}'")
        return list(found)

    def _training_run(self, trained_digest: str) -> Any:
        """The run that trained the model, or None if the store does not know it."""
        wanted = f"tags.`{DIGEST_TAG}` = '{trained_digest}' and tags.`{STAGE_TAG}` = 'train'"
        found = self._client.search_runs([self._experiment], wanted, max_results=1)
        return found[0] if found else None

    @contextmanager
    def _run(self, training: Any) -> Iterator[str]:
        """A run for the registration, below the same parent as the training run, whose code it names.

        MLflow compares versions by their runs, so it has all params and the data set.
        """
        tags = {**lineage.facts(), SOURCE_TAG: "pipeline.register", **process_tags()}
        if training:
            known = training.data.tags
            tags |= {key: value for key, value in known.items() if key == PARENT_TAG or key.startswith("git.")}
            tags[TRAINING_RUN_TAG] = training.info.run_id
        run_id = str(self._client.create_run(self._experiment, tags=tags, run_name=f"register {self.name}").info.run_id)
        try:
            params = lineage.flat_params(lineage.all_params())
            self._client.log_batch(run_id, params=[store.mlflow().entities.Param(*each) for each in params])
            if digest := lineage.data_digest():
                self._client.log_inputs(run_id, datasets=[store.dataset(digest)])
            yield run_id
        except BaseException:
            with suppress(Exception):
                self._client.set_terminated(run_id, "FAILED")
            raise
        self._client.set_terminated(run_id, "FINISHED")


def process_tags() -> dict[str, str]:
    """Tags that name the process which creates something."""
    return {PROCESS_TAG: str(ProcessId.current()), WORKTREE_TAG: worktree()}


def is_abandoned(tags: Mapping[str, str]) -> bool:
    """Whether the process in `process_tags` ran on this machine and has ended; of another machine nobody can know."""
    if PROCESS_TAG not in tags or _machine(tags.get(WORKTREE_TAG, "")) != _machine(worktree()):
        return False
    process = ProcessId.parse(tags[PROCESS_TAG])
    # This process has begun something else since.
    return process.is_same(ProcessId.current()) or not process.is_alive()


def _machine(place: str) -> str:
    return place.split(":", 1)[0]


def _verdict(decision: Decision) -> dict[str, str]:
    """The tags of a version that say what was decided about it last."""
    tags: dict[str, str] = {"decision": decision.decision}
    if decision.is_accepted:
        tags["promoted_why"] = decision.why[: history.MAX_REASON_LENGTH]
    return tags
