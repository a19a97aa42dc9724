"""The model card of a registered version: intended use, training data, figures, limits, licence.

After Mitchell et al. 2019, "Model Cards for Model Reporting". The same files give the same card.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.artefacts.model import Description
from pipeline.evaluation.figures import FIGURES, ORIGINS, Z
from pipeline.params import Params
from pipeline.registry.promotion import Decision

LARGEST_NEAR_COPY_SHARE, SMALLEST_CLASS_AGREEMENT = 0.02, 0.9
"""Share above, and ratio below, that of real images at which the card warns."""


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
    sections = {
        f"Model card: {name}": _summary(description, digest, params),
        "Intended use": _use(description),
        "Training data": _data(description, params, validation),
        "Training": _training(params),
        "Figures": _figures(metrics, params),
        "Limits": _limits(metrics, description),
        "Decision": _decision(decision),
        "Licence": _licence(),
    }
    parts = [
        f"{'#' if number == 0 else '##'} {title}\n\n{chr(10).join(lines)}\n"
        for number, (title, lines) in enumerate(sections.items())
    ]
    return "\n".join(parts)


def _summary(description: Description, digest: str, params: Params) -> Iterator[str]:
    data, sampling = description.data, description.sampling
    classes = f", in {data.num_classes} classes" if data.num_classes else ""
    yield f"A diffusion model that draws images of {data.image_size}x{data.image_size} pixels and"
    yield f"{_plural(data.channels, 'channel')}{classes}. The network predicts `{description.target}`; the noise schedule has"
    yield f"{params.schedule.num_timesteps:,} steps. Recommended: sampler `{sampling.sampler}`, {sampling.num_steps} steps,"
    yield f"guidance {sampling.guidance_scale:g}."
    yield ""
    yield f"Digest: `{digest}`"


def _use(description: Description) -> Iterator[str]:
    yield "For images like those that it was trained on: trying out generative models, filling demonstrations, augmenting"
    yield "and testing programs that take such images."
    yield ""
    yield "Not for: evidence of anything real; decisions about people; images outside of its training data, which it"
    yield "cannot draw; uses that the licence of the training images forbids."
    if description.data.class_names:
        yield ""
        yield f"Classes: {', '.join(map(_escaped, description.data.class_names))}."


def _data(description: Description, params: Params, validation: Mapping[str, Any]) -> Iterator[str]:
    counts, checks = validation.get("counts", {}), validation.get("checks", {})
    yield f"{counts.get('train', 0):,} images to train on and {counts.get('held_out', 0):,} held out, prepared from"
    yield f"`data/raw` (`{params.prepare.source}`); {counts.get('quarantined', 0):,} were broken and left out,"
    yield f"{counts.get('duplicates', 0):,} are copies of others."
    yield f"{sum(bool(check.get('success')) for check in checks.values())} of {len(checks)} data checks passed."
    yield "`data/README.md` names the source and the licence of the images."
    yield ""
    yield f"Data digest: `{description.provenance.get('data_digest', 'not known')}`"


def _training(params: Params) -> Iterator[str]:
    train = params.train
    yield f"{train.num_images:,} images seen in batches of {train.batch_size}, peak learning rate {train.learning_rate:g}"
    yield f"({train.learning_rate_plan}), loss weighting `{train.weighting}`, seed {train.seed}, weights averaged over the"
    yield "training (EMA). The full settings are the run's parameters; the code is the run's commit."


def _figures(metrics: Mapping[str, float], params: Params) -> Iterator[str]:
    yield f"{int(metrics.get('evaluate/num_images', 0)):,} images drawn with {params.evaluate.num_steps} steps of"
    yield f"`{params.evaluate.sampler}`, seed {params.evaluate.seed}, compared with held-out images. *Real images* are held to the"
    yield "same measure; *baseline* is a mixture of Gaussians. ± is half a 95 % interval."
    yield ""
    yield "| figure | model | real images | baseline |"
    yield "|---|---|---|---|"
    for name, figure in FIGURES.items():
        if f"evaluate/{name}" in metrics:
            cells = (_measured(metrics, origin, name) for origin in ORIGINS)
            yield f"| {figure.label} | {' | '.join(cells)} |"


def _limits(metrics: Mapping[str, float], description: Description) -> Iterator[str]:
    yield "- It draws what its training images show, with their biases and gaps, and nothing else."
    yield f"- Size and channels are fixed: {description.data.image_size} pixels, {_plural(description.data.channels, 'channel')}."
    yield "- Figures depend on the feature extractor and on the number of images: compare them only if both are equal."
    yield from (f"- {warning}" for warning in _warnings(metrics))


def _warnings(metrics: Mapping[str, float]) -> Iterator[str]:
    """Limits that follow from the figures."""
    kid, floor, baseline = (metrics.get(f"{origin}/kid") for origin in ORIGINS)
    error = metrics.get("evaluate/kid_standard_error", 0.0)
    if kid is not None and floor is not None and kid - Z * error > max(floor, 0.0):
        yield "Its images differ measurably from real ones: KID is above that of real images."
    if kid is not None and baseline is not None and kid >= baseline:
        yield "**It is no better than a mixture of Gaussians** by KID: do not use it for anything but tests."
    agreement, real = metrics.get("evaluate/class_agreement"), metrics.get("floor/class_agreement")
    if agreement is not None and real is not None and agreement < SMALLEST_CLASS_AGREEMENT * real:
        yield f"It does not always draw the requested class: {agreement:.0%} of its images show it, {real:.0%} of real ones."
    copies, honest = metrics.get("evaluate/near_copy_share"), metrics.get("floor/near_copy_share")
    if copies is not None and honest is not None and copies > honest + LARGEST_NEAR_COPY_SHARE:
        yield f"**It repeats training images**: {copies:.1%} of its images are near-copies ({honest:.1%} of real ones are)."


def _decision(decision: Decision) -> Iterator[str]:
    yield f"`{decision.decision}`, by {_plural(len(decision.rules), 'rule')}."
    for rule in decision.rules:
        yield f"- {'passed' if rule.passed else '**failed**'}: {_escaped(rule.name)}"


def _licence() -> Iterator[str]:
    yield "The program that made it is under Apache-2.0. The weights are derived from the training images, whose licence"
    yield "(in `data/README.md`; MIT for the demo's) governs their use."


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
