"""`foundry adopt`: from any folder, archive or address of images to a champion, without a hand-written param.

Nothing of the project changes before the table is printed, and nothing at all with `--plan`, but that what a killed adoption
has left is put back or completed. Images that were in data/raw and that DVC does not have are never replaced.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from pipeline.adoption.change import changing_images
from pipeline.adoption.durations import seconds_per_feature
from pipeline.adoption.intake import Intake, take_in
from pipeline.adoption.params_file import write_params
from pipeline.adoption.plan import Pace, Plan, Wish, make_plan
from pipeline.adoption.replacement import EXCLUDED, PARAMS, PLACE, RAW, RECORD, replacing_images
from pipeline.adoption.survey import Survey, survey
from pipeline.adoption.table import plan_table
from pipeline.artefacts.files import naming
from pipeline.artefacts.sizes import MIB
from pipeline.commands import summary
from pipeline.commands.set_params import set_params
from pipeline.errors import FoundryError
from pipeline.ingestion.exclusions import read_exclusions, write_exclusions
from pipeline.params import MODEL_NAME, load_params, read_params
from pipeline.progress import waiting
from pipeline.provenance.dvc import dvc, md5_of, read_yaml
from pipeline.training.cost import estimate

BUSY_PERCENT = 30
"""Share of all cores in use above which a measured pace is not that of an idle machine."""


def main(source: str, name: str | None, minutes: float, image_size: int | None, *, plan: bool) -> None:
    with changing_images() as settled:
        sys.stdout.write("".join(f"{line}\n" for line in settled))
        load_params(PARAMS)
        require_model_name(name)
        if not plan:
            require_replaceable(source)
        busy_percent = psutil.cpu_percent(interval=0.5)
        with incoming(source) as intake:
            excluded = read_exclusions(EXCLUDED) if is_raw(source) else frozenset()
            found = looked_at(source, intake, excluded)
            chosen = planned(found, Wish(name=name or intake.name, minutes=minutes, image_size=image_size))
            sys.stdout.write(f"{plan_table(intake, found, chosen)}\n")
            if busy_percent > BUSY_PERCENT:
                sys.stdout.write(
                    f"other programs take {busy_percent:.0f} % of this machine: without them it is faster than planned\n"
                )
            sys.stdout.flush()
            if plan:
                return
            adopt(intake, chosen, excluded)
    run_pipeline()


def planned(found: Survey, wish: Wish) -> Plan:
    """The plan for this machine, of which a few training steps and the extractor are timed."""
    free = psutil.virtual_memory().available / MIB
    pace = Pace(training=estimate, sec_per_feature=seconds_per_feature, memory_mib=free)
    with waiting("timing training steps and the extractor"):
        return make_plan(found, read_params(PARAMS), wish, pace)


@contextmanager
def incoming(source: str) -> Iterator[Intake]:
    """A copy of `source` in the project, which is removed unless it has been moved."""
    folder = PLACE / "raw"
    shutil.rmtree(folder, ignore_errors=True)
    PLACE.mkdir(parents=True, exist_ok=True)
    try:
        yield take_in(source, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def looked_at(source: str, intake: Intake, excluded: Collection[str]) -> Survey:
    """The survey of the copied images.

    Raises:
        FoundryError: there is no image; the message names the source and not the copy.
    """
    try:
        return survey(intake.folder, excluded)
    except FoundryError as error:
        copies = (str(intake.folder / Path(source).name), str(intake.folder))
        text = str(error)
        for copy in copies if Path(source).is_file() else copies[1:]:
            text = text.replace(copy, source)
        raise FoundryError(text) from None


def require_replaceable(source: str) -> None:
    """Refuse to replace images in data/raw that DVC does not have.

    Raises:
        FoundryError: they are neither recorded in data/raw.dvc nor the ones to be adopted.
    """
    if not RAW.exists() or not any(RAW.iterdir()) or is_raw(source):
        return
    outs = read_yaml(RECORD).get("outs") or [{}]
    if outs[0].get("md5") != md5_of(RAW):
        raise FoundryError(
            f"{RAW}: holds images that {RECORD} does not record and that would be lost; "
            f"keep them with `dvc add {RAW}`, move them away, or adopt {RAW} itself"
        )


def require_model_name(name: str | None) -> None:
    """Refuse a name that no registered model can have, before the images are looked at.

    Raises:
        FoundryError: it is given and not of that form.
    """
    if name is not None and not re.fullmatch(MODEL_NAME, name):
        raise FoundryError(f"--name: should be lower-case letters, digits and hyphens, at most 63 (got {name!r})")


def is_raw(source: str) -> bool:
    """Whether the images of the project itself are adopted again, as after `foundry data exclude`."""
    return Path(source).expanduser().resolve() == RAW.resolve()


def adopt(intake: Intake, plan: Plan, excluded: Collection[str]) -> None:
    """Put the images and the params in their places; only a list of excluded images that they were chosen with stays."""
    with replacing_images(intake.folder) as files:
        params = files / PARAMS.name
        with naming(params):
            shutil.copyfile(PARAMS, params)
        write_params(params, plan.choices)
        # A model of other images is no beginning for these.
        set_params(params, ["ancestor.digest=null"])
        write_exclusions(files / EXCLUDED.name, excluded)
        with waiting("giving the images to DVC"):
            dvc("add", str(RAW))
    sys.stdout.write(f"\n{RAW} and {PARAMS} are written; {PARAMS} as it was is {PLACE / PARAMS.name}\n\n")
    sys.stdout.flush()


def run_pipeline() -> None:
    """Run all stages, register the model, and show the results.

    Raises:
        FoundryError: a stage failed; it has said why.
    """
    for words in (("dvc", "repro"), ("pipeline", "model", "register")):
        if code := subprocess.run([sys.executable, "-m", *words], check=False).returncode:  # noqa: S603
            raise FoundryError(
                f"`{' '.join(words).replace('pipeline', 'foundry')}` stopped with exit code {code} for the reason above; "
                "`dvc repro` and `make register` go on from there"
            )
    summary.main(Path("data/evaluation"), Path("data/registration"))
    sys.stdout.write("keep it:   git add -A && git commit -m 'Adopt new images'\n")
