"""Stage `prepare`: from raw images to checked, packed pixels.

Every image found is listed in the manifest. What cannot be decoded is quarantined there with its reason; the rest is
resized, split and packed into shards, once Great Expectations has found the manifest good enough. When it has not,
the manifest, the validation and the report are written all the same, and there is no data set.

Reads: data/raw
Writes: data/prepared (docs/contracts.md lists it file by file)
Params: prepare
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from pipeline.artefacts.dataset import SPLITS, DatasetInfo, digest_of, write_split
from pipeline.artefacts.files import TEMPORARY, naming, write_json
from pipeline.errors import CheckFailedError
from pipeline.ingestion.examination import examine_all
from pipeline.ingestion.expectations import validate
from pipeline.ingestion.manifest import complete, frame_of, write_manifest
from pipeline.ingestion.sources import read_raw
from pipeline.ingestion.spool import PixelSpool
from pipeline.params import PrepareParams, load_params
from pipeline.reporting.data_report import write_report
from pipeline.tracking.runs import StageRun, stage_run


def main(raw: Path, out: Path) -> None:

    params = load_params().prepare
    # Before the run is opened, which names the data set that it finds.
    remove_outs(out)
    with stage_run("prepare", params={"prepare": params.model_dump(mode="json")}) as run:
        try:
            prepare(raw, out, params)
        finally:
            log(run, out)


def prepare(raw: Path, out: Path, params: PrepareParams) -> None:
    """Make `out` from `raw`.

    Raises:
        FoundryError: `raw` does not hold what `params.source` says.
        CheckFailedError: the images are not good enough; the evidence is in `out`.

    """
    shape = (params.image_size, params.image_size, params.channels)
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
    remove_outs(out)
    remains: dict[str, bytes] = {}
    with PixelSpool(out, shape) as spool:
        frames = collect(raw, params, spool, remains)
        manifest, class_names = complete(frames, params.class_names, params.held_out_share)
        write_manifest(out / "manifest.parquet", manifest)
        validation = validate(manifest, class_names, params)
        write_json(out / "validation.json", validation.document())
        write_report(out / "report.html", manifest, class_names, validation, spool.read, remains)
        if not validation.success:
            findings = [f"{out / 'validation.json'}: {finding}" for finding in validation.findings()]
            raise CheckFailedError("\n".join([*findings, f"{out / 'report.html'} shows the images"]))
        write_data(out, manifest, class_names, params, spool)
    counts = validation.counts
    sys.stderr.write(
        f"{out}: {counts['train']} images to train on, {counts['held_out']} held out, "
        f"{counts['quarantined']} quarantined, {counts['duplicates']} duplicates\n"
    )


ROWS_A_FRAME = 4096
"""Rows of the manifest kept as Python objects, before they become a compact frame."""


REMAINS_BYTES = 2**26
"""Bytes of quarantined images kept for the report, 64 MiB."""


def collect(raw: Path, params: PrepareParams, spool: PixelSpool, remains: dict[str, bytes]) -> Iterator[pd.DataFrame]:
    """Examine all images: pixels go to the spool, what is quarantined to `remains`, rows come out in frames."""
    num_classes = len(params.class_names) if params.class_names else None
    source = read_raw(raw, params.source, labelled=params.labelled, num_classes=num_classes)
    rows: list[dict[str, Any]] = []
    # Pillow warns of odd metadata; what counts is whether the pixels come out. Set once: threads share the filters.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), tqdm(total=source.num_images, desc="prepare", unit="image") as bar:
        warnings.simplefilter("ignore")
        for batch in examine_all(source.images, params.image_size, params.channels):
            spool.append(batch.pixels)
            rows += batch.rows
            if sum(map(len, remains.values())) < REMAINS_BYTES:
                remains |= batch.remains
            bar.update(len(batch.rows))
            if len(rows) >= ROWS_A_FRAME:
                yield frame_of(rows)
                rows = []
        yield frame_of(rows)


def remove_outs(out: Path) -> None:
    """Nothing of an earlier run, nor of one that was killed, stands beside the outs of this one."""
    files = ("dataset.json", "manifest.parquet", "validation.json", "report.html")
    with naming(out):
        for path in (*(out / name for name in files), *out.glob(f".*{TEMPORARY}")):
            path.unlink(missing_ok=True)
        for name in (*SPLITS, PARTIAL):
            if (out / name).exists():
                shutil.rmtree(out / name)


PARTIAL = ".partial"
"""Folder below the outs in which the splits are written, before they are moved into place."""


def write_data(
    out: Path, manifest: pd.DataFrame, class_names: tuple[str, ...] | None, params: PrepareParams, spool: PixelSpool
) -> None:
    """Write the splits and then dataset.json, without which they are no data set."""
    rows = {split: manifest[manifest["split"] == split] for split in SPLITS}
    with naming(out / PARTIAL):
        (out / PARTIAL).mkdir()
    for split, images in rows.items():
        positions = images["found"].to_numpy(dtype="int64")
        labels = images["label"].to_numpy(dtype="int64") if class_names else None
        write_split(out / PARTIAL / split, positions, spool.read, labels)
    info = DatasetInfo(
        image_size=params.image_size,
        channels=params.channels,
        class_names=class_names,
        num_train=len(rows["train"]),
        num_held_out=len(rows["held_out"]),
        digest=digest_of(out / PARTIAL),
    )
    for split in SPLITS:
        (out / PARTIAL / split).rename(out / split)
    (out / PARTIAL).rmdir()
    write_json(out / "dataset.json", info.document())


def log(run: StageRun, out: Path) -> None:
    """Show MLflow what there is, evidence of a failed validation too."""
    if (out / "validation.json").exists():
        validation = json.loads((out / "validation.json").read_text(encoding="utf-8"))
        observed = {name: check["observed"] for name, check in validation["checks"].items()}
        numbers = {name: value for name, value in (observed | validation["counts"]).items() if value is not None}
        run.metrics({f"prepare/{name}": value for name, value in numbers.items()})
    if (out / "report.html").exists():
        run.artifact(out / "report.html")
    if (out / "dataset.json").exists():
        run.dataset(json.loads((out / "dataset.json").read_text(encoding="utf-8"))["digest"])


if __name__ == "__main__":
    from pipeline import cli

    cli.main(["prepare", *sys.argv[1:]])
