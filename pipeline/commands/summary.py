"""`foundry summary`: the figures of the last pipeline beside their floors, and where its results are."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.artefacts.files import read_document
from pipeline.evaluation.figures import CHIEF_FIGURES, FIGURES, ORIGINS, title_of
from pipeline.evaluation.results import read_results
from pipeline.evaluation.verdict import verdict
from pipeline.params import load_params
from pipeline.registry.registry import Registry
from pipeline.registry.versions import Version, holding
from pipeline.tracking import store
from pipeline.tracking.stage_times import in_words, last_times


def main(evaluation: Path, registration: Path) -> None:
    metrics = read_results(evaluation)
    decision = read_document(registration / "decision.json", stage="register")
    params = load_params()
    lines = verdict(metrics, params.train, student=params.student).lines()
    sys.stdout.write(
        "\n" + "".join(f"{line}\n" for line in lines) + f"\n{table(metrics, is_distilled=params.student is not None)}\n"
    )
    sys.stdout.write(f"samples: {evaluation / 'grid.png'}, report: {evaluation / 'report.html'}\n")
    versions = holding(decision["model_digest"])
    for version in versions:
        aliases = ", ".join(version.aliases) or "no alias"
        sys.stdout.write(f"registered: {version} ({aliases}); decision: {decision['decision']}\n")
    if times := last_times():
        each = ", ".join(f"{stage} {in_words(seconds)}" for stage, seconds in times.items())
        sys.stdout.write(f"took, when each last ran: {each}; together {in_words(sum(times.values()))}\n")
    with store.answering():
        champion = Registry(params.register_.model_name).aliases.champion()
    steps = list(next_steps(champion, versions, registration / "model"))
    width = max(len(command) for command, _ in steps)
    rows = (f"{command:{width}}  {purpose}\n" for command, purpose in steps)
    sys.stdout.write("\nnext:  " + "       ".join(rows))


def next_steps(champion: str | None, versions: Sequence[Version], model: Path) -> Iterator[tuple[str, str]]:
    """Commands, each with its purpose.

    Args:
        champion: the version that is champion.
        versions: those of the last pipeline's model.
        model: its folder.
    """
    yield "make ui", "compare runs in the browser"
    if champion:
        yield "make serve", f"serve the champion, version {champion}"
    else:
        yield f"make serve MODEL={model}", "serve this model: there is no champion"
        for version in versions:
            yield f'foundry model promote {version.number} --reason "…"', "make it the champion, whatever the gate says"
    yield "make test", "run all checks"


def table(metrics: dict[str, float], *, is_distilled: bool) -> str:
    """The chief figures of the model, of as many real images, and of the mixture of Gaussians."""
    lines = [f"{'':24} {'model':>9} {'real':>9} {'baseline':>9}"]
    for name in CHIEF_FIGURES:
        if f"evaluate/{name}" in metrics:
            values = (metrics.get(f"{origin}/{name}") for origin in ORIGINS)
            cells = ("" if value is None else format(value, FIGURES[name].format) for value in values)
            lines.append(f"{title_of(name, is_distilled=is_distilled):24} " + " ".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)
