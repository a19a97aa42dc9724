"""`foundry model trace`: where an image comes from: passport, model, training run, commit, data.

FOUNDRY_PASSPORT_KEY holds the key that the passport was signed with, if any; with it, a changed image is refused. Exit
code 3: no registered model has the digest in the passport.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.artefacts import passport
from pipeline.artefacts.passport import Picture
from pipeline.artefacts.sampling_defaults import guidance_in_words
from pipeline.errors import CheckFailedError
from pipeline.provenance.git import commit_line
from pipeline.provenance.lineage import COMMIT_TAG, LOCK_TAG, RAW_DATA_TAG
from pipeline.provenance.revisions import commit_of_lock
from pipeline.registry import versions
from pipeline.registry.versions import Version
from pipeline.tracking.store import tracking_uri
from pipeline.tracking.tags import DATA_TAG, DIRTY_TAG


def main(picture: Path) -> None:
    loaded = passport.load(picture, passport.environment_key())
    _write(_sampling_facts(loaded))
    found = versions.holding(loaded.passport.model_digest)
    for version in found:
        _write(_training_facts(version))
    if not found:
        raise CheckFailedError(f"{tracking_uri()}: no registered model has the digest {loaded.passport.model_digest}")


def _write(lines: Iterator[tuple[str, str | None]]) -> None:
    for name, value in lines:
        sys.stdout.write(f"{name:<12}{value or 'not known'}\n")


def _sampling_facts(picture: Picture) -> Iterator[tuple[str, str | None]]:
    passport = picture.passport
    yield (
        "passport",
        "its signature is valid" if picture.is_verified else "not checked: FOUNDRY_PASSPORT_KEY is not set",
    )
    eta = f", eta {passport.eta:g}" if passport.eta else ""
    chosen = "no class" if passport.class_label is None else f"class {passport.class_label}"
    steps = f"{passport.num_steps} steps of {passport.sampler}{eta}"
    guidance = guidance_in_words(passport.guidance_scale, passport.guidance_interval)
    yield "drawn", f"seed {passport.seed}, {chosen}, {steps}, guidance {guidance}"
    yield "bits", f"{passport.determinism}, repro_id {passport.repro_id}"
    yield "model", passport.model_digest


def _training_facts(version: Version) -> Iterator[tuple[str, str | None]]:
    tags = version.tags
    commit, lock, data = tags.get(COMMIT_TAG), tags.get(LOCK_TAG), tags.get(RAW_DATA_TAG)
    yield "registered", f"{version}" + (f" ({', '.join(version.aliases)})" if version.aliases else "")
    yield "decision", tags.get("decision")
    if version.promoted_why:
        # By the gate, or by a person against its decision.
        yield "promoted", version.promoted_why
    yield "trained by", f"run {version.training_run} in {tracking_uri()}"
    yield "git", _joined(commit, commit and commit_line(commit))
    if tags.get(DIRTY_TAG) == "true":
        yield "", "with uncommitted changes: git-diff.patch of the parent run"
    if lock:
        found = commit_of_lock(lock)
        lock += f": committed in {found}" if found else ": in no commit of this repository"
    yield "dvc.lock", lock
    if data:
        is_cached = Path(".dvc/cache/files/md5", data[:2], data[2:]).exists()
        data += ": in the cache here" if is_cached else ": not in the cache here; `dvc pull` gets it from the remote"
    yield "data/raw", data
    yield "prepared", tags.get(DATA_TAG)


def _joined(*parts: str | None) -> str | None:
    return ": ".join(part for part in parts if part) or None
