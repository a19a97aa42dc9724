"""`foundry data changed`: before a retraining, how data/raw differs from the images that the last run prepared.

Reads: data/raw, and of the last run data/prepared, data/features, data/evaluation
Writes: data/drift/drift.json, data/drift/drift.html
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.artefacts.files import write_json
from pipeline.errors import FoundryError
from pipeline.evaluation.results import TABLE, read_results
from pipeline.ingestion.exclusions import LIST, exclusions_of
from pipeline.params import load_params
from pipeline.provenance.dvc import LOCK, dvc, md5_of, read_yaml
from pipeline.reporting.data_change import change_between
from pipeline.reporting.drift import Drift, drift_of_images, read_reference
from pipeline.reporting.image_set import open_prepared, open_raw
from pipeline.reporting.pages import write_page

RAW = Path("data/raw")
ALPHA, SEED = 0.01, 0


def main(prepared: Path, features: Path, evaluation: Path, out: Path, *, pull: bool) -> None:
    """Print one line; never an error, since a retraining is to go on."""
    if not is_changed():
        sys.stdout.write("data: as in the last run\n")
        return
    try:
        if pull:
            dvc("pull", "--quiet", f"{RAW}.dvc", "prepare", "features", str(evaluation / TABLE))
        sys.stdout.write(f"data: {compare(prepared, features, evaluation, out)}\n")
    except FoundryError as error:
        sys.stdout.write(f"data: changed, and not compared with those of the last run: {error}\n")


def is_changed() -> bool:
    """Whether data/raw.dvc names other content than the stage `prepare` last read, or other images are left out."""
    deps = read_yaml(Path(LOCK)).get("stages", {}).get("prepare", {}).get("deps", [])
    before = {dep["path"]: dep.get("md5") for dep in deps}
    outs = read_yaml(Path(f"{RAW}.dvc")).get("outs", [])
    if not outs or before.get(str(RAW)) != outs[0].get("md5"):
        return True
    excluded = RAW.parent / LIST
    return excluded.exists() and before.get(str(excluded)) != md5_of(excluded)


def compare(prepared: Path, features: Path, evaluation: Path, out: Path) -> str:
    """Compare the images; returns the differences in one line.

    Raises:
        FoundryError: the images of the last run, or data/raw, cannot be read.
    """
    reference, old = read_reference(prepared, features, SEED), open_prepared(prepared)
    params = load_params().prepare
    if reference.shape != params.image_shape:
        raise FoundryError(f"params.yaml: prepare.image_size and channels differ from those of {prepared}")
    with open_raw(RAW, params, exclusions_of(RAW)) as new:
        change, drift = change_between(old, new), drift_of_images(reference, new, alpha=ALPHA, seed=SEED)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "drift.json", drift.document())
    write_page(out / "drift.html", "drift.html", it=drift)
    counts = ", ".join(f"{len(rows):,} {kind}" for kind, rows in change.items() if len(rows)) or "the same images"
    return f"{counts}; {verdict(drift, _figures(evaluation))}"


def verdict(drift: Drift, figures: Mapping[str, float]) -> str:
    """What the tests say; the new images are unlike the old as a whole where a mixture of Gaussians is nearer to these."""
    distance = next((result.test.value for result in drift.results if result.test.name == "features"), None)
    mixture = figures.get("baseline/kid")
    if distance is not None and mixture is not None and distance > mixture:
        return (
            f"UNLIKE THE OLD ONES AS A WHOLE: KID {distance:.3g} between them, of a mixture of Gaussians {mixture:.3g}. "
            "The champion fails on them; are they right? See data/drift/drift.html"
        )
    if not drift.alarms:
        return "no drift found"
    return f"drift in {', '.join(alarm.test.name for alarm in drift.alarms)}: see data/drift/drift.html"


def _figures(evaluation: Path) -> dict[str, Any]:
    try:
        return read_results(evaluation)
    except FoundryError:
        return {}
