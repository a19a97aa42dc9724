"""Measure what `foundry adopt` makes of image sets: minutes, the verdict's figures, and whether a champion came of it.

    python -m benchmarks.adopted_sets emoji=~/emoji digits=~/digits.npz --minutes 15 --out benchmarks/results/adopted_sets.json

Each set is adopted in a clone of this repository's last commit with an environment of its own, as a newcomer does; the
installation is not part of the time. With the same --out a stopped run goes on; sets that were measured before are kept.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.protocol import ROOT, machine_facts, parser, run_command, save, table
from pipeline.artefacts.files import read_document
from pipeline.evaluation.figures import Z
from pipeline.evaluation.results import read_results
from pipeline.evaluation.verdict import verdict
from pipeline.params import load_params


def main() -> None:
    made = parser("adopted_sets", __doc__)
    made.add_argument("sets", nargs="+", metavar="NAME=DATA", help="a name, and what `foundry adopt` takes")
    made.add_argument("--minutes", type=float, default=15.0, help="that adopt plans for, for each set")
    made.add_argument("--scratch", type=Path, help="where the clones are made and kept, instead of a temporary folder")
    arguments = made.parse_args()
    sets = dict(name_and_data(each) for each in arguments.sets)
    minutes = 3.0 if arguments.quick else arguments.minutes
    document = read_document(arguments.out) if arguments.out and arguments.out.exists() else {"sets": {}}
    with TemporaryDirectory() as temporary:
        for name, data in sets.items():
            if name not in document["sets"]:
                document["sets"][name] = adopted((arguments.scratch or Path(temporary)) / name, data, minutes)
                document |= {"machine": machine_facts(), "quick": arguments.quick}
                if arguments.out:
                    save(arguments.out, document)
    sys.stdout.write(report(document["sets"]))


def name_and_data(argument: str) -> tuple[str, str]:
    name, separator, data = argument.partition("=")
    if not separator:
        raise SystemExit(f"{argument}: wanted NAME=DATA, as in digits=~/digits.npz")
    path = Path(data).expanduser()
    return name, str(path.absolute()) if path.exists() else data


def adopted(clone: Path, data: str, minutes: float) -> dict[str, Any]:
    """Adopt `data` in a new clone; return what was chosen, how long it took, and the figures."""
    run_command(["git", "clone", "-q", str(ROOT), str(clone)], folder=ROOT)
    run_command(["make", "install"], folder=clone)
    run = run_command([".venv/bin/foundry", "adopt", data, "--minutes", f"{minutes:g}"], folder=clone)
    params, metrics = load_params(clone / "params.yaml"), read_results(clone / "data" / "evaluation")
    (planned,) = (line for line in run.output.splitlines() if line.startswith("minutes here:"))
    found = verdict(metrics, params.train)
    return {
        "minutes": run.seconds / 60,
        "planned": planned,
        "image_size": params.prepare.image_size,
        "channels": params.prepare.channels,
        "num_images": params.train.num_images,
        "decision": read_document(clone / "data" / "registration" / "decision.json")["decision"],
        "findings": {each.name: each.is_good for each in found.findings},
        "verdict": found.lines(),
        "metrics": metrics,
    }


def report(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """KID and class agreement of each model beside those of real images and of the mixture."""
    columns = (
        "set",
        "pixels",
        "minutes",
        "decision",
        "KID",
        "real",
        "mixture",
        "error / linear",
        "classes",
        "real",
        "copies",
    )
    return table((*columns, "real"), (list(_row(name, each)) for name, each in sets.items()))


def _row(name: str, result: Mapping[str, Any]) -> Iterator[object]:
    metrics = result["metrics"]
    yield from (name, f"{result['image_size']} x {result['channels']}", round(result["minutes"], 1), result["decision"])
    half = Z * metrics["evaluate/kid_to_all_standard_error"]
    yield f"{metrics['evaluate/kid_to_all']:.3g} ± {half:.2g}"
    yield from (metrics["floor/kid_to_all"], metrics["baseline/kid_to_all"], metrics["evaluate/mse_over_linear"])
    for figure in ("class_agreement", "near_copy_share"):
        for origin in ("evaluate", "floor"):
            value = metrics.get(f"{origin}/{figure}")
            yield None if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
