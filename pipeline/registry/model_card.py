"""The model card of a registered version: intended use, training data, figures, limits, licence.

After Mitchell et al. 2019, "Model Cards for Model Reporting". The same files give the same card.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.artefacts.model import Description
from pipeline.artefacts.sampling_defaults import guidance_in_words
from pipeline.evaluation.figures import FIGURES, ORIGINS, Z, distances_by_rows
from pipeline.evaluation.verdict import verdict
from pipeline.params import Params
from pipeline.registry.gate.promotion import Decision

MAX_DESCRIPTION = 5000
"""Characters of a version's description that MLflow's tables have room for; PostgreSQL refuses more."""
THE_REST = "\n\nThe rest is in `MODEL_CARD.md` among the run's artefacts.\n"


def model_card(
    name: str,
    *,
    description: Description,
    digest: str,
    metrics: Mapping[str, float],
    params: Params,
    validation: Mapping[str, Any],
    decision: Decision,
) -> str:
    """Write the card as Markdown.

    Args:
        name: of the registered model.
        description: model.json of the model that is registered.
        digest: of that model.
        metrics: metrics.json of its evaluation.
        params: params.yaml of its training and evaluation.
        validation: validation.json of its data; empty if unknown.
        decision: whether it becomes champion, and by which rules.
    """
    # Markdown escapes nothing by itself: foreign names pass `escaped`.
    environment = Environment(  # noqa: S701
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"escaped": _escaped, "plural": _plural, "guidance": guidance_in_words}
    sampling = description.sampling
    measured = [name for name in FIGURES if f"evaluate/{name}" in metrics]
    return environment.get_template("model_card.md").render(
        name=name,
        digest=digest,
        description=description,
        data=description.data,
        sampling=sampling,
        teacher=description.provenance.get("teacher"),
        ancestor_digest=description.provenance.get("ancestor_digest"),
        params=params,
        train=params.training,
        counts=dict.fromkeys(("train", "held_out", "quarantined", "duplicates"), 0) | validation.get("counts", {}),
        checks=list(validation.get("checks", {}).values()),
        num_images=int(metrics.get("evaluate/num_images", 0)),
        figures=[(FIGURES[key].label, [_measured(metrics, origin, key) for origin in ORIGINS]) for key in measured],
        distances=distances_by_rows(metrics),
        verdict=verdict(metrics, params.train, student=params.distil if description.is_distilled else None),
        decision=decision,
    )


def _measured(metrics: Mapping[str, float], origin: str, key: str) -> str:
    value, error = metrics.get(f"{origin}/{key}"), metrics.get(f"{origin}/{key}_standard_error")
    if value is None:
        return ""
    return format(value, FIGURES[key].format) + (f" ± {Z * error:.2g}" if error is not None else "")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _escaped(text: str) -> str:
    """Escape a foreign name for Markdown."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in " ".join(text.split()))


def description(card: str, picture: str = "", commands: str = "") -> str:
    """The card as MLflow shows it: a picture below its title, commands at the end, in at most MAX_DESCRIPTION characters.

    MLflow's pages break lines where Markdown does not, so each paragraph is one line.
    """
    title, _, text = re.sub(r"(?<=\S)\n(?=[\w`*(])", " ", card).partition("\n\n")
    room = MAX_DESCRIPTION - len(f"{title}\n\n{picture}\n\n\n{commands}")
    return "\n\n".join(filter(None, (title, picture, f"{shortened(text, room)}\n{commands}")))


def shortened(text: str, limit: int) -> str:
    """The text, or as many of its lines as fit into `limit` characters with a line that says where the rest is."""
    if len(text) <= limit:
        return text
    return text[: limit - len(THE_REST)].rpartition("\n")[0] + THE_REST
