"""The command line: every command and every option is declared here, and `foundry --help` is the index of them.

Only click is imported at the top. A command names the function that it calls, whose module is imported when the command
runs, so that `--help` and completion answer at once while all other modules import what they need at their top.
`tests/test_cli.py` checks that each function takes just the options that are declared for it. The file is longer than
others because it is the one table of all commands.
"""

import faulthandler
import math
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from pipeline.diffusion.samplers import SAMPLERS
from pipeline.environment import check_environment
from pipeline.errors import FoundryError


class Finite(click.FloatRange):
    """A number in a range: without `nan`, which is below no limit, and without `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a number.

        Raises:
            click.BadParameter: it is out of range or not finite.
        """
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class Filled(click.types.StringParamType):
    """A text that is not empty, as a shell variable would be that is not set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Take a text.

        Raises:
            click.BadParameter: it is empty.
        """
        text = super().convert(value, param, ctx)
        if not text.strip():
            self.fail("is empty", param, ctx)
        return text


class FilledPath(click.Path):
    """A path that is not empty, which would be the working folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Take a path.

        Raises:
            click.BadParameter: it is empty.
        """
        if value == "":
            self.fail("is empty: should name a file or folder", param, ctx)
        return super().convert(value, param, ctx)


PATH = FilledPath(path_type=Path)
FILLED = Filled()
PORT = click.IntRange(1, 65535)
SEED = click.IntRange(0, 2**63 - 1)
MOST_IMAGES = 1_000_000
SEARCHED_METRICS = tuple(
    f"evaluate/{name}" for name in ("frechet_distance", "kid", "kid_to_all", "mse_over_linear", "bits_per_dim")
)
STAGES = ("prepare", "schedule", "features", "train", "evaluate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command of `foundry`."""
    if arguments is None:
        # A library that crashes says in which line it was called, in the processes that this one starts too.
        faulthandler.enable()
        os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    run(lambda: foundry.main(arguments, prog_name="foundry", standalone_mode=False))


def run(action: Callable[[], None]) -> None:
    """Run `action` and leave the process with the exit code that docs/contracts.md gives its outcome."""
    try:
        action()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except FoundryError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader went away (`… | head`), which is no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A full disk or a folder that cannot be written: the message names the file.
        sys.stderr.write(f"{error.filename or 'system'}: {error.strerror or error}\n")
        sys.exit(FoundryError.exit_code)


class Index(click.Group):
    """A group whose help lists the commands of its groups too."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List stages, then each group, then all other commands."""
        del ctx
        groups = [command for command in self.commands.values() if isinstance(command, click.Group)]
        single = [command for command in self.commands.values() if command not in groups and not command.hidden]
        sections = [
            ("Stages, as `dvc repro` runs them", "", [command for command in single if command.name in STAGES]),
            *((str(group.help), f"{group.name} ", list(group.commands.values())) for group in groups),
            ("More", "", [command for command in single if command.name not in STAGES]),
        ]
        width = max(len(f"{prefix}{command.name}") for _, prefix, commands in sections for command in commands)
        for title, prefix, commands in sections:
            with formatter.section(title):
                formatter.write_dl(
                    [(f"{prefix}{each.name}".ljust(width), each.get_short_help_str(90)) for each in commands]
                )


CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 120, "show_default": True}


@click.group(cls=Index, context_settings=CONTEXT)
@click.version_option(package_name="diffusion-foundry")
def foundry() -> None:
    """Turn a folder of images into a reproducible, registered and served image generator."""
    check_environment(os.environ)


DATA, RUNS, MODEL = (
    click.Group(name, help=title)
    for name, title in (("data", "Images"), ("runs", "Runs in MLflow"), ("model", "Models"))
)
for group in (DATA, RUNS, MODEL):
    foundry.add_command(group)


def command(
    group: click.Group, name: str, target: str, *parameters: click.Parameter, describe: str, hidden: bool = False
) -> None:
    """Declare a command that calls `target`, `module:function`, with its parameters by name."""

    def call(**values: Any) -> None:
        module, function = target.split(":")
        getattr(import_module(module), function)(**values)

    group.add_command(click.Command(name, callback=call, params=list(parameters), help=describe, hidden=hidden))


def option(*names: str, **settings: Any) -> click.Option:
    return click.Option(names, **settings)


def folder(name: str) -> click.Option:
    """Option `--<name>`, a folder that is data/<name> by default."""
    return option(f"--{name}", type=PATH, default=Path("data") / name, metavar="FOLDER")


def out(default: str | None = None, **settings: Any) -> click.Option:
    """Option `--out`, required where it has no default."""
    where: dict[str, Any] = {"default": Path(default), "metavar": "FOLDER"} if default else {"required": True}
    return option("--out", type=PATH, **where, **settings)


def argument(name: str, **settings: Any) -> click.Argument:
    return click.Argument([name], **settings)


ANY_MODEL = {"metavar": "FOLDER|URI", "help": "A model folder, models:/NAME@ALIAS or models:/NAME/VERSION."}
OR_CHAMPION = {"metavar": "FOLDER|URI", "help": "A model folder or a models:/… URI.  [default: the champion]"}

EXCLUDED = option(
    "--excluded", type=PATH, default=Path("data/excluded.txt"), metavar="FILE", help="Images to leave out."
)

# A table reads best in short rows.
# fmt: off
command(
    foundry, "prepare", "pipeline.prepare:main", folder("raw"), EXCLUDED, out("data/prepared"),
    describe="Decode, check, split and pack the raw images.",
)
command(
    foundry, "schedule", "pipeline.schedule:main", folder("prepared"), out("data/schedule"),
    describe="Compute the noise schedule, statistics of the images, and timetables for sampling.",
)
command(
    foundry, "features", "pipeline.features:main", folder("prepared"), out("data/features"),
    describe="Make the feature extractor of the metrics, and measure real images against each other.",
)
command(
    foundry, "train", "pipeline.train:main", folder("prepared"), folder("schedule"), folder("ancestor"),
    out("data/model"),
    option("--checkpoint-interval-sec", type=Finite(min=0), default=30.0),
    describe="Train the network; continues from the last checkpoint if there is one.",
)
command(
    foundry, "distil", "pipeline.distil:main", folder("model"), folder("prepared"), folder("schedule"),
    option("--checkpoint-interval-sec", type=Finite(min=0), default=30.0),
    option("--run-id", default=None), option("--seconds-before", type=Finite(), default=0.0), hidden=True,
    describe="Replace a trained model by a student that draws in few steps (the end of `train`).",
)
command(
    foundry, "evaluate", "pipeline.evaluate:main",
    folder("model"), folder("prepared"), folder("schedule"), folder("features"), out("data/evaluation"),
    describe="Choose sampling settings; compare samples and losses with held-out images.",
)

command(
    DATA, "fetch", "pipeline.commands.data.fetch:fetch", out("data/raw"),
    describe="Download the demo's images, Fashion-MNIST, and check them.",
)
command(
    DATA, "report", "pipeline.commands.data.report:main", folder("prepared"),
    describe="Print the checks of the prepared data; exit code 3 if one failed.",
)
command(
    DATA, "exclude", "pipeline.commands.data.exclude:main",
    argument("files", nargs=-1, metavar="[FILE]..."),
    option("--near-duplicates", is_flag=True, help="Exclude all but the first of each group of near-duplicates."),
    option("--quarantined", is_flag=True, help="Exclude all quarantined files."),
    option("--undo", is_flag=True, help="Remove the files from the list."),
    folder("prepared"), EXCLUDED,
    describe="""Exclude images from the data: one line each in data/excluded.txt, which is under git.

    FILE is a `source` of the manifest, as the data report shows it, or its path; - reads them from standard input.""",
)
command(
    DATA, "add", "pipeline.commands.data.add:main",
    argument("source", metavar="FOLDER|ARCHIVE|URL"),
    folder("raw"), folder("prepared"),
    describe="Add images to data/raw, record them with DVC, and say what changes.",
)
command(
    DATA, "link", "pipeline.commands.data.link:main",
    argument("url"), folder("raw"),
    describe="""List the shards below a URL in data/raw, from where `prepare` reads them, and record the list with DVC.

    URL is of a store or folder, as s3://bucket/prefix, with tar files of a WebDataset or Parquet tables.""",
)
command(
    DATA, "compare", "pipeline.commands.data.compare:main",
    argument("before", type=PATH), argument("after", type=PATH), out("data/comparison"),
    describe="""Write a page that shows how two versions of the data differ.

    BEFORE and AFTER are prepared folders, or raw data of the kind `prepare.source`, prepared as params.yaml says.""",
)
command(
    DATA, "changed", "pipeline.commands.data.changed:main",
    folder("prepared"), folder("features"), folder("evaluation"), out("data/drift"),
    option("--pull", is_flag=True, help="Get missing files from DVC's remote."),
    describe="""Say in one line how data/raw differs from what the last run prepared.

    The exit code is 0 whatever it finds: `make retrain` begins with it.""",
)
command(
    DATA, "drift", "pipeline.commands.data.drift:main",
    argument("new", type=PATH, nargs=-1, required=True),
    option("--source", type=click.Choice(("idx", "images", "archive", "arrays")), help="[default: prepare.source]"),
    option("--unlabelled", is_flag=True, help="The new images have no classes."),
    folder("prepared"), folder("features"),
    option("--alpha", type=Finite(0, 1, min_open=True, max_open=True), default=0.01, help="Probability of a false alarm."),
    option("--seed", type=SEED, default=0, help="Seed of the subsets and permutations."),
    out("data/drift"),
    describe="""Test whether new images or requests are like the training images; exit code 3 if not.

    NEW is a folder of raw data, or request logs of the service, whose classes are compared.""",
)

command(
    RUNS, "list", "pipeline.commands.runs.list:main",
    option("--limit", type=click.IntRange(1, 1000), default=20, help="Largest number of pipelines."),
    describe="List the newest pipelines with their figures and registered versions.",
)  # fmt: skip
command(
    RUNS, "compare", "pipeline.commands.runs.compare:main", argument("runs", nargs=-1, required=True, metavar="RUN RUN..."),
    out("data/comparison"),
    describe="""Write a page that compares runs: samples of the same seeds, params, curves, metrics.

    RUN is the id of an MLflow run or its beginning, the name of an experiment or pipeline, models:/NAME@ALIAS or
    models:/NAME/VERSION.""",
)
command(
    RUNS, "restore", "pipeline.commands.runs.restore:main", argument("run"),
    option("--out", type=PATH, metavar="FOLDER", help="A new folder.  [default: .foundry/checkouts/RUN]"),
    describe="""Restore code, params, data and model of a run in a new git worktree.

    RUN is the id of an MLflow run or its beginning, the name of an experiment or pipeline, models:/NAME@ALIAS or
    models:/NAME/VERSION.""",
)
command(
    RUNS, "reconcile", "pipeline.commands.runs.reconcile:main",
    describe="Log stages that DVC took from its cache, and list lost and foreign runs.",
)
command(
    RUNS, "sync", "pipeline.commands.runs.sync:main",
    describe="Send the entries of .foundry/outbox to the tracking server.",
)
command(
    RUNS, "queue", "pipeline.commands.runs.queue:main",
    option("--jobs", type=click.IntRange(1, 64), default=1, help="Number of experiments that run at a time."),
    describe="Run the experiments queued by `dvc exp run --queue`, in the background.",
)
command(
    RUNS, "ui", "pipeline.tracking.store:serve",
    option("--host", default="127.0.0.1"), option("--port", type=PORT, default=5000),
    describe="Start the MLflow UI, to compare runs in the browser.",
)

command(
    MODEL, "register", "pipeline.register:main",
    folder("model"), folder("evaluation"), folder("prepared"), folder("features"), out("data/registration"),
    option("--again", is_flag=True, help="Decide again on a registered model, after a change of params, data or champion."),
    describe="Register the trained model and decide whether it becomes the champion.",
)
command(
    MODEL, "settle", "pipeline.commands.model.settle:main", out("data/registration"),
    describe="""Train both recipes with further seeds while the decision is open, at most three trainings of each.

    Those of the champion run in a git worktree, .foundry/checkouts/NAME-VERSION.""",
)
command(
    MODEL, "promote", "pipeline.commands.model.champion:promote_version", argument("version", type=click.IntRange(1, 2**31 - 1)),
    option("--reason", required=True, metavar="TEXT", help="Reason to record in the history."),
    describe="""Make a registered version the champion without applying the rules.

    VERSION is a number of the registered model `register.model_name`.""",
)
command(
    MODEL, "rollback", "pipeline.commands.model.champion:restore_previous",
    option("--reason", required=True, metavar="TEXT", help="Reason to record in the history."),
    describe="""Make the previous champion the champion again.

    Each further rollback goes one champion further back.""",
)
command(
    MODEL, "history", "pipeline.commands.model.champion:history", option("--out", type=PATH, metavar="FILE", help="Write JSON lines to this file."),
    describe="Show which version was champion when, and why.",
)
command(
    MODEL, "trace", "pipeline.commands.model.trace:main", argument("picture", type=PATH),
    describe="""Show where a picture comes from: model, run, commit, data.

    FOUNDRY_PASSPORT_KEY holds the key that the passport was signed with, if any. Exit code 3: no registered model has
    the digest that the passport names.""",
)
command(
    MODEL, "export", "pipeline.commands.model.export:main",
    option("--to", type=click.Choice(("onnx", "diffusers", "torch-export")), required=True),
    option("--model", required=True, **ANY_MODEL),
    out(metavar="PATH", help="model.onnx, model.pt2, or a new folder for diffusers."),
    describe="Write a model for other programs, after comparing it with the original.",
)
command(
    MODEL, "package", "pipeline.commands.model.package:main", option("--model", **OR_CHAMPION),
    option("--resolve", is_flag=True, help="Only check the model and print its folder."),
    option("--folder", type=PATH, metavar="FOLDER", help="Only check the model and copy it to this new folder."),
    option("--sbom", type=PATH, metavar="FILE", help="Only write the service's SBOM (CycloneDX JSON)."),
    describe="Build a Bento with a model and the service, and print its tag.",
)

command(
    foundry, "adopt", "pipeline.commands.adopt:main", argument("source", metavar="FOLDER|ARCHIVE|URL"),
    option("--plan", is_flag=True, help="Only print the params that would be chosen, why, and their cost; change nothing."),
    option("--minutes", type=Finite(min=1), default=15.0, help="Time for all stages together."),
    option("--image-size", type=click.IntRange(4, 512), help="Side in pixels.  [default: the largest that fits into the time]"),
    option("--name", type=FILLED, help="Name of the registered model.  [default: the source's]"),
    describe="Make a champion from any images: examine them, choose all params and say why, run the pipeline.",
)
command(
    foundry, "search", "pipeline.commands.search:main", argument("space", type=PATH, metavar="FILE"),
    option("--trainings", type=Finite(min=1), default=20.0, help="Budget; a pruned training counts by the share of it that ran."),
    option("--metric", type=click.Choice(SEARCHED_METRICS), default=SEARCHED_METRICS[0], help="Metric to minimise."),
    option("--name", type=FILLED, help="Name of the search; its experiments get a number, too.  [default: the file's name]"),
    describe="""Search for better params: each trial is an experiment of DVC, and bad ones are pruned.

    FILE has the params with their ranges and choices (docs/experiments.md). The same command resumes a search that was
    stopped. `dvc exp apply` takes over the best trial.""",
)
command(
    foundry, "sample", "pipeline.commands.sample:main", option("--model", required=True, **ANY_MODEL),
    option("--num-images", type=click.IntRange(1, 10**9), required=True),
    option("--seed", type=SEED, default=0),
    option("--out", type=FILLED, required=True, metavar="PATH|URL", help="samples.npz, grid.png, or a folder for a PNG of each image; of a set a folder or s3://…"),
    option("--shard-size", type=click.IntRange(1, MOST_IMAGES), help="Draw a set, which can be resumed, as shards of so many images: .npz files with digests."),
    option("--verify", is_flag=True, help="Check the digests of a set, and draw some images of each shard again."),
    option("--class-label", metavar="N|NAME|none", help="One class.  [default: each class in turn]"),
    option("--sampler", type=click.Choice(SAMPLERS), help="[default: the model's]"),
    option("--steps", type=click.IntRange(min=1), help="Number of sampling steps.  [default: the model's]"),
    option("--eta", type=Finite(), default=0.0, help="Noise of ddim: 0 for none, 1 for that of ddpm."),
    option("--guidance-scale", type=Finite(0, 20), help="Scale of classifier-free guidance; 1 is none.  [default: the model's]"),
    option("--guidance-interval", type=Finite(), nargs=2, metavar="BEGIN END", help="The part of the steps with guidance, 0 to 1.  [default: all]"),
    describe="""Draw images from a model.

    Each image has a seed of its own, which follows from --seed and its number: drawn alone with that seed it is the
    same. The suffix of --out says what is written. Several processes with the same options, here or on other machines of
    this kind, share the work of a set.""",
)
command(
    foundry, "report", "pipeline.commands.report:main",
    folder("model"), folder("prepared"), folder("evaluation"), folder("registration"),
    option("--against", metavar="URI", help="Compare with models:/NAME/VERSION.  [default: the champion]"),
    out("data/registration"),
    describe="Write what the last retraining changed, as a page and as a comment.",
)


@foundry.command()
@click.option("--model", metavar="FOLDER|URI", help="[default: the folder FOUNDRY_MODEL, or the champion]")
@click.option("--name", help="The model's name in the API.  [default: its registered name]")
@click.option("--host", default="127.0.0.1", metavar="IP")
@click.option("--port", type=PORT, default=3000)
def serve(model: str | None, name: str | None, host: str, port: int) -> None:
    """Serve a model over HTTP; docs/serving.md has the API.

    A registered name is resolved once, before the service starts, so what is served cannot change under it.
    """
    from service import serve

    chosen = model or os.environ.get("FOUNDRY_MODEL")
    if chosen is None or chosen.startswith("models:/"):
        # Only here, since an image of the service holds no registry.
        from pipeline.commands.model import package

        bundle = package.fetch(chosen)
        chosen, name = str(bundle.folder), name or bundle.name
        os.environ.setdefault("FOUNDRY_MODEL_VERSION", bundle.origin.get("mlflow.version", ""))
    serve.main(Path(chosen), name, host, port)


command(
    foundry, "drain", "service.drain:main", option("--port", type=PORT, default=3000, help="Port of the service."),
    describe="Stop a local service from accepting requests and let open ones finish.",
)
command(
    foundry, "replay", "service.replay:main", argument("picture", type=PATH),
    option("--model", type=PATH, metavar="FOLDER", help="The model that drew it.  [default: FOUNDRY_MODEL]"),
    option("--url", help="Let the running service at this URL draw it; FOUNDRY_API_KEY holds a key for it."),
    describe="""Draw a picture of the service again and compare every pixel; exit code 3 if one differs.

    With --model it is drawn by this process, with the service's code and FOUNDRY_ variables. FOUNDRY_PASSPORT_KEY holds
    the key that the passport was signed with, if any.""",
)
command(
    foundry, "verify", "pipeline.commands.verify_resume:main", folder("prepared"), folder("schedule"),
    folder("ancestor"),
    option("--num-images", type=click.IntRange(min=1), default=3200, help="Training images of each run."),
    option("--num-kills", type=click.IntRange(min=0), default=3),
    option("--seed", type=SEED, help="Seed of the moments of the kills.  [default: random]"),
    describe="Train twice, once killed at random moments, and compare every byte.",
)
command(
    foundry, "cost", "pipeline.commands.cost:main",
    describe="Show how much memory and time a training with params.yaml takes on this machine.",
)
command(
    foundry, "doctor", "pipeline.commands.doctor:main",
    describe="""Check this installation, and say what is wrong and what to type.

    Checks Python, packages, device, memory, disk, git, clock, stages, remote, tracking store and ports; changes nothing.
    Exit code 3 if something is wrong.""",
)
command(
    foundry, "gc", "pipeline.commands.gc:main",
    option("--apply", is_flag=True, help="Delete what is not needed; without it only the table is printed."),
    describe="""Show what takes disk space, and how much of it is not needed.

    What a commit, branch, tag, experiment, registered version or running process needs is never deleted.""",
)
command(
    foundry, "set", "pipeline.commands.set_params:main", argument("changes", nargs=-1, metavar="[KEY=VALUE]..."),
    option("--start-from", metavar="champion|URI", help="Let trainings begin with a registered model's weights."),
    describe="""Change params.yaml: `train.seed=1 evaluate.seed=2`. If a value is invalid, nothing changes.

    With --start-from the model is resolved to its digest now, and kept in data/ancestor; URI is models:/NAME@ALIAS or
    models:/NAME/VERSION. `ancestor.digest=null` lets trainings start from random weights again.""",
)
command(
    foundry, "summary", "pipeline.commands.summary:main", folder("evaluation"), folder("registration"),
    describe="Show the results of the last pipeline run and where they are.",
)
command(
    foundry, "remotes-check", "pipeline.commands.check_remotes:main",
    describe="""Check that the tracking server and the DVC remote can store a champion.

    DVC_REMOTE, if set, becomes the default remote of this checkout.""",
)
command(
    foundry, "gpu-check", "pipeline.commands.gpu_check:main",
    describe="Measure training and sampling on a CUDA device, and check what should be bit-identical.",
)
command(
    foundry, "plots-template", "pipeline.commands.plots_template:write_template", out(metavar="FILE"), hidden=True,
    describe="Write the page of `dvc plots show` with its library inside, for use without a network.",
)
command(
    foundry, "pace", "pipeline.training.pace:main", argument("question"), hidden=True,
    describe="Time a few steps of a training (for `cost`).",
)
command(
    foundry, "exactness", "service.exactness:main", argument("model", type=PATH), hidden=True,
    describe="Draw pictures alone and together by the service's code and compare their bits (for `gpu-check`).",
)
command(
    foundry, "trial", "pipeline.registry.gate.trial:main",
    folder("model"), folder("prepared"), folder("features"), out(), hidden=True,
    describe="Draw and evaluate one side of a comparison, alone in its process (for `model register`).",
)
# fmt: on
