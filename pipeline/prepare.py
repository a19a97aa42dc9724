"""Stage `prepare`: from raw images to checked, packed pixels.

Every image found is listed in the manifest. Files that cannot be decoded are quarantined there with a reason; all other
images are resized, split and packed into shards, provided that the manifest passes the checks of Great Expectations. If it
does not, the manifest, the validation report and the data report are written, but no dataset.

Sources of several shards are examined by one process per core (`NPROC` sets the number), which changes no byte. The results
of shards are kept in .foundry/examined, so that of a set that has grown only new shards are decoded.

Reads: data/raw, data/excluded.txt
Writes: data/prepared (docs/contracts.md lists it file by file)
Params: prepare
"""

import sys
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa

from pipeline.artefacts.dataset import SPLITS, DatasetInfo, digest_of, require_enough, write_split
from pipeline.artefacts.files import naming, remove_outputs, write_json
from pipeline.artefacts.image_size import image_size
from pipeline.errors import CheckFailedError
from pipeline.ingestion.examination import examine, wanted_images
from pipeline.ingestion.exclusions import read_exclusions
from pipeline.ingestion.expectations import validate
from pipeline.ingestion.manifest import build_manifest, write_manifest
from pipeline.ingestion.shards import delete_unused
from pipeline.ingestion.sources import read_raw, require_folder
from pipeline.ingestion.sources.raw import listed
from pipeline.ingestion.spool import PixelSpool
from pipeline.ingestion.validation import ValidationReport
from pipeline.params import PrepareParams, load_params
from pipeline.reporting.data_report import write_report
from pipeline.tracking import runs
from pipeline.tracking.runs import StageRun, stage_run

PARTIAL = ".partial"
"""Folder inside the output folder in which the splits are written before they are moved into place."""

OUTS = ("dataset.json", "manifest.parquet", "validation.json", "report.html", *SPLITS, PARTIAL)


def main(raw: Path, excluded: Path, out: Path) -> None:
    """Run the stage."""
    params, left_out = load_params().prepare, read_exclusions(excluded)
    # What the last run has made stays if there is nothing to make anew from.
    require_folder(raw, params.source)
    # Before the run is opened, since a run logs the dataset that exists when it starts.
    remove_outputs(out, OUTS)
    # Arrow's own allocators keep what is freed: 300,000 images then take a sixth more memory.
    pa.set_memory_pool(pa.system_memory_pool())
    with stage_run("prepare", params={"prepare": params.model_dump(mode="json")}) as run:
        # Outside of the outs, which DVC removes before a stage runs.
        examined = runs.main_worktree() / ".foundry" / "examined"
        validation, dataset = prepare(raw, out, params, left_out, examined)
        delete_unused(examined)
        log(run, out, validation, dataset)
        require_success(validation, out)
        if dataset is not None:
            # Before the stages in between have taken their minutes.
            require_enough(dataset)


def prepare(
    raw: Path, out: Path, params: PrepareParams, excluded: Collection[str] = (), examined: Path | None = None
) -> tuple[ValidationReport, DatasetInfo | None]:
    """Make `out` from `raw` without the sources `excluded`.

    Examined shards are kept in the folder `examined`, if there is one, and taken from there when they are needed again.

    Returns:
        The results of the checks; and the dataset, or None if a check failed and no dataset was written.

    Raises:
        FoundryError: `raw` does not hold a source of the kind `params.source`.
    """
    remove_outputs(out, OUTS)
    num_classes = len(params.class_names) if params.class_names else None
    place = TemporaryDirectory(dir=out) if examined is None else nullcontext(examined)
    with place as folder, PixelSpool(out, params.image_shape) as spool:
        examination = examine(
            lambda: read_raw(raw, params.source, labelled=params.labelled, num_classes=num_classes),
            spool,
            wanted_images(params),
            "prepare",
            Path(folder),
        )
        manifest, class_names = build_manifest(examination.rows, params.class_names, params.held_out_share, excluded)
        quarantined_bytes = examination.quarantined_bytes
        # The manifest has all its rows.
        del examination
        write_manifest(out / "manifest.parquet", manifest)
        if gone := sorted(set(excluded) - set(manifest["source"])):
            sys.stderr.write(f"{raw}: does not have {listed(gone)}, which should be left out\n")
        validation = validate(manifest, class_names, params)
        write_json(out / "validation.json", validation.document())
        report = out / "report.html"
        write_report(report, manifest, class_names, validation, spool.read, quarantined_bytes)
        if not validation.success:
            return validation, None
        dataset = write_dataset(out, manifest, class_names, spool)
    counts = validation.counts
    sys.stderr.write(
        f"{out}: {counts['train']} images to train on, {counts['held_out']} held out, "
        f"{counts['quarantined']} quarantined, {counts['duplicates']} duplicates, "
        f"{counts['near_duplicates']} near-duplicates, {counts['excluded']} left out\n"
    )
    return validation, dataset


def write_dataset(
    out: Path, manifest: pd.DataFrame, class_names: tuple[str, ...] | None, spool: PixelSpool
) -> DatasetInfo:
    """Write the splits, and last dataset.json, without which they are no dataset."""
    rows = {split: manifest[manifest["split"] == split] for split in SPLITS}
    with naming(out / PARTIAL):
        (out / PARTIAL).mkdir()
    for split, images in rows.items():
        positions = images["spool_index"].to_numpy(dtype="int64")
        labels = images["label"].to_numpy(dtype="int64") if class_names else None
        write_split(out / PARTIAL / split, positions, spool.read, labels)
    height, width, channels = spool.shape
    info = DatasetInfo(
        image_size=image_size((height, width)),
        channels=channels,
        class_names=class_names,
        num_train=len(rows["train"]),
        num_held_out=len(rows["held_out"]),
        digest=digest_of(out / PARTIAL),
    )
    for split in SPLITS:
        (out / PARTIAL / split).rename(out / split)
    (out / PARTIAL).rmdir()
    write_json(out / "dataset.json", info.document())
    return info


def log(run: StageRun, out: Path, validation: ValidationReport, dataset: DatasetInfo | None) -> None:
    """Log the results to MLflow, also when a check failed."""
    run.metrics({f"prepare/{name}": value for name, value in validation.metrics().items()})
    run.artifact(out / "report.html")
    if dataset is not None:
        run.dataset(dataset.digest)


def require_success(validation: ValidationReport, out: Path) -> None:
    """Raise CheckFailedError if a check failed."""
    if not validation.success:
        findings = [f"{out / 'validation.json'}: {finding}" for finding in validation.findings()]
        raise CheckFailedError("\n".join([*findings, f"{out / 'report.html'} shows the images"]))


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["prepare", *sys.argv[1:]])
