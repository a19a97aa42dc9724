"""`foundry summary`: the figures of the last pipeline beside their floors, and where its results are."""

import sys
from pathlib import Path

from pipeline.artefacts.files import read_document
from pipeline.evaluation.figures import CHIEF_FIGURES, FIGURES, ORIGINS
from pipeline.evaluation.results import read_results
from pipeline.evaluation.verdict import verdict
from pipeline.params import load_params
from pipeline.registry.versions import holding
from pipeline.tracking.stage_times import in_words, last_times

NEXT = """\
next:  make ui      compare runs in the browser
       make serve   serve the champion
       make test    run all checks
"""


def main(evaluation: Path, registration: Path) -> None:
    metrics = read_results(evaluation)
    decision = read_document(registration / "decision.json", stage="register")
    lines = verdict(metrics, load_params().train).lines()
    sys.stdout.write("\n" + "".join(f"{line}\n" for line in lines) + f"\n{table(metrics)}\n")
    sys.stdout.write(f"samples: {evaluation / 'grid.png'}, report: {evaluation / 'report.html'}\n")
    for version in holding(decision["model_digest"]):
        aliases = ", ".join(version.aliases) or "no alias"
        sys.stdout.write(f"registered: {version} ({aliases}); decision: {decision['decision']}\n")
    if times := last_times():
        each = ", ".join(f"{stage} {in_words(seconds)}" for stage, seconds in times.items())
        sys.stdout.write(f"took, when each last ran: {each}; together {in_words(sum(times.values()))}\n")
    sys.stdout.write(f"\n{NEXT}")


def table(metrics: dict[str, float]) -> str:
    """The chief figures of the model, of as many real images, and of the mixture of Gaussians."""
    lines = [f"{'':24} {'model':>9} {'real':>9} {'baseline':>9}"]
    for name in CHIEF_FIGURES:
        if f"evaluate/{name}" in metrics:
            values = (metrics.get(f"{origin}/{name}") for origin in ORIGINS)
            cells = ("" if value is None else format(value, FIGURES[name].format) for value in values)
            lines.append(f"{FIGURES[name].title:24} " + " ".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)
