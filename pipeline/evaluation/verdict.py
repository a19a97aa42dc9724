"""The verdict on a model in words, from its metrics: what it beats, how far it is from real images, and what helps.

Pages, cards and summaries begin with it, and the rules of promotion read it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.evaluation.figures import Z
from pipeline.params import DistilParams, TrainParams

LEAST_LEVELS = 0.9
"""Share of the noise levels at which the error has to be below the best linear denoiser's."""
LARGEST_EXCESS = 0.5
"""Largest distance from real images that counts as near to them, relative to the mixture's."""
NUM_STANDARD_ERRORS = 2.0
"""Standard errors by which a share has to differ from that of real images to count as more than chance."""
LARGEST_GAP = 1.15
"""Ratio of the error on held-out images to that on training images above which it is over-fitting; each is known to 3 %."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question."""

    name: str
    text: str
    is_good: bool | None
    """None: the errors of the figures, or missing figures, allow no answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings, and the advice that follows from them."""

    findings: Sequence[Finding]
    advice: str
    """The change that most likely helps, with the command."""

    def finding(self, name: str) -> Finding | None:
        """The finding of this name, if its figures are known."""
        return next((each for each in self.findings if each.name == name), None)

    @property
    def is_good(self) -> bool | None:
        """Whether the model is better than both baselines, the mixture of Gaussians and the linear denoiser."""
        answers = [each.is_good for each in self.findings if each.name in BASELINES]
        return False if False in answers else None if None in answers else True

    @property
    def headline(self) -> str:
        """The verdict in one sentence."""
        word = {True: "Better", False: "Not better", None: "Not known to be better"}
        return f"{word[self.is_good]} than the baselines: {'; '.join(each.text for each in self.findings if each.name in HEADLINES)}."

    @property
    def warnings(self) -> list[str]:
        """The findings that are not good."""
        return [f"{each.text[0].upper()}{each.text[1:]}." for each in self.findings if each.is_good is not True]

    def lines(self) -> list[str]:
        """The headline, the other findings and the advice."""
        others = [f"{each.text[0].upper()}{each.text[1:]}." for each in self.findings if each.name not in HEADLINES]
        return [self.headline, *others, self.advice]


BASELINES = ("mixture", "linear")
HEADLINES = (*BASELINES, "real")


def verdict(metrics: Mapping[str, float], train: TrainParams, *, student: DistilParams | None = None) -> Verdict:
    """Judge a model by its metrics.

    Args:
        metrics: those of metrics.json; a student's losses are its teacher's.
        train: params with which the model, or its teacher, was trained.
        student: params with which the model was distilled; None if it was not.
    """
    mixture, linear = against_baselines(metrics, is_distilled=student is not None)
    gap = _gap(metrics)
    if gap and student:
        gap = _of_teacher(gap)
    findings = (mixture, linear, _real(metrics), _classes(metrics), _copies(metrics), gap)
    known = [each for each in findings if each is not None]
    return Verdict(known, _advice({each.name: each.is_good for each in known}, train, student))


def against_baselines(metrics: Mapping[str, float], *, is_distilled: bool) -> tuple[Finding, Finding]:
    """The findings `mixture` and `linear`: a model has to beat at least what takes seconds and no training."""
    linear = _linear(metrics)
    return _mixture(metrics), _of_teacher(linear) if is_distilled else linear


def _of_teacher(finding: Finding) -> Finding:
    return replace(finding, text=f"its teacher: {finding.text}")


def _kid_name(metrics: Mapping[str, float]) -> str:
    return "kid_to_all" if "evaluate/kid_to_all" in metrics else "kid"


def _mixture(metrics: Mapping[str, float]) -> Finding:
    """By the confidence interval of KID: better if all of it is below the mixture's KID, worse if all of it is above.

    Also worse if its classes are recognised less often than both the mixture's and those of real images: shapes of the
    right size in coloured noise had half of the mixture's KID, but a classifier recognised the class of 22 % of them
    and of 35 % of the mixture's. Being recognised less often than the mixture alone is no fault: its images are
    typical, and may be recognised more often than real ones.
    """
    name = _kid_name(metrics)
    kid, baseline = metrics.get(f"evaluate/{name}", math.nan), metrics.get(f"baseline/{name}", math.nan)
    half = Z * metrics.get(f"evaluate/{name}_standard_error", math.nan)
    figures = f"KID {kid:.3g} ± {half:.2g}, the mixture's {baseline:.3g}"
    if kid - half > baseline:
        return Finding("mixture", f"worse than a mixture of Gaussians ({figures})", is_good=False)
    drawn, theirs, error = _shares(metrics, "class_agreement", other="baseline")
    is_clear = drawn is None or theirs is None or drawn >= theirs - NUM_STANDARD_ERRORS * error
    if not (is_clear or _shows_classes(metrics)):
        figures = f"the requested class is recognised in {drawn:.1%} of its images, in {theirs:.1%} of the mixture's"
        return Finding("mixture", f"worse than a mixture of Gaussians ({figures})", is_good=False)
    if kid + half < baseline:
        return Finding("mixture", f"better than a mixture of Gaussians ({figures})", is_good=True)
    return Finding("mixture", f"not distinguishable from a mixture of Gaussians ({figures})", is_good=None)


def _linear(metrics: Mapping[str, float]) -> Finding:
    """By the errors at all noise levels, compared with those of the best linear denoiser."""
    share, ratio = (metrics.get(f"evaluate/{name}") for name in ("levels_better_than_linear", "mse_over_linear"))
    if share is None or ratio is None:
        return Finding("linear", "not compared with the best linear denoiser", is_good=None)
    figures = f"a lower error at {share:.0%} of the noise levels, {ratio:.3g} times its error in the mean"
    if share >= LEAST_LEVELS:
        return Finding("linear", f"better than the best linear denoiser ({figures})", is_good=True)
    return Finding("linear", f"not better than the best linear denoiser ({figures})", is_good=False)


def _real(metrics: Mapping[str, float]) -> Finding | None:
    """How much of the mixture's distance from real images is left."""
    name = _kid_name(metrics)
    keys = [f"{origin}/{name}" for origin in ("evaluate", "floor", "baseline")]
    if any(key not in metrics for key in keys):
        return None
    kid, real, baseline = (metrics[key] for key in keys)
    # The squared distance of real images is 0; its estimate may be below.
    real = max(real, 0.0)
    if baseline <= real:
        text = "the mixture of Gaussians cannot be distinguished from real images, so it is no measure"
        return Finding("real", text, is_good=None)
    share = max(0.0, (kid - real) / (baseline - real))
    size = f"{share:.0%} of" if share < 2 else f"{share:.3g} times"
    figures = f"its distance from real images is {size} the mixture's"
    return Finding("real", figures, is_good=share <= LARGEST_EXCESS)


def _classes(metrics: Mapping[str, float]) -> Finding | None:
    drawn, real, _ = _shares(metrics, "class_agreement")
    if drawn is None or real is None:
        return None
    figures = f"the requested class is recognised in {drawn:.1%} of its images and in {real:.1%} of real ones"
    return Finding("classes", figures, is_good=_shows_classes(metrics))


def _shows_classes(metrics: Mapping[str, float]) -> bool:
    """Whether its classes are recognised as often as those of real images, or less often by chance."""
    drawn, real, error = _shares(metrics, "class_agreement")
    return drawn is not None and real is not None and drawn >= real - NUM_STANDARD_ERRORS * error


def _copies(metrics: Mapping[str, float]) -> Finding | None:
    drawn, real, error = _shares(metrics, "near_copy_share")
    if drawn is None or real is None:
        return None
    is_good = drawn <= real + NUM_STANDARD_ERRORS * error
    figures = f"{drawn:.1%} of its images are near-copies of training images, {real:.1%} of real ones"
    return Finding("copies", figures if is_good else f"it repeats training images: {figures}", is_good=is_good)


def _shares(
    metrics: Mapping[str, float], name: str, *, other: str = "floor"
) -> tuple[float | None, float | None, float]:
    """A share of the model's images, the share of real ones (or the baseline's), and the standard error of the difference."""
    origins = ("evaluate", other)
    errors = (metrics.get(f"{origin}/{name}_standard_error", 0.0) for origin in origins)
    drawn, real = (metrics.get(f"{origin}/{name}") for origin in origins)
    return drawn, real, math.hypot(*errors)


def _gap(metrics: Mapping[str, float]) -> Finding | None:
    gap = metrics.get("evaluate/mse_over_training")
    if gap is None:
        return None
    is_good = gap <= LARGEST_GAP
    words = "it does not over-fit" if is_good else "it over-fits"
    figures = f"its error on held-out images is {gap:.2f} times that on training images"
    return Finding("over-fitting", f"{words}: {figures}", is_good=is_good)


def _advice(answers: Mapping[str, bool | None], train: TrainParams, student: DistilParams | None) -> str:
    """What most likely helps."""
    return next(_remedies(answers, train, student))


def _remedies(answers: Mapping[str, bool | None], train: TrainParams, student: DistilParams | None) -> Iterator[str]:
    longer = 2 * train.num_images
    if answers.get("copies") is False or answers.get("over-fitting") is False:
        name, change = _against_overfitting(train)
        yield f"What most likely helps: more images (then `dvc repro`); with these, {name}: {_command(change)}."
    if answers["linear"] is not True or (answers["mixture"] is False and student is None):
        yield f"What most likely helps: a longer training: {_command(f'train.num_images={2 * longer}')}."
    is_weak = answers["mixture"] is not True or answers.get("real") is not True or answers.get("classes") is False
    if student is not None:
        yield _for_a_student(student, train, is_weak=is_weak)
    if is_weak:
        widths = ",".join(str(2 * width) for width in train.network.widths)
        yield (
            f"What most likely helps: a longer training: {_command(f'train.num_images={longer}')}; "
            f"then a wider network: {_command(f'train.network.widths=[{widths}]')}."
        )
    yield f"No fault stands out; a longer training may still help: {_command(f'train.num_images={longer}')}."


def _for_a_student(student: DistilParams, train: TrainParams, *, is_weak: bool) -> str:
    """A longer training of its own; then more of its steps, and where it has the most, a longer one of its teacher."""
    longer = f"a longer training of the student: {_command(f'distil.num_images={2 * student.num_images}')}"
    if not is_weak:
        return f"No fault stands out; {longer} may still bring its images closer to its teacher's."
    better = {1: "distil.steps=2", 2: "distil.steps=4"}.get(student.steps or 4)
    then = (
        f"more steps: {_command(better)}"
        if better
        else f"of its teacher: {_command(f'train.num_images={2 * train.num_images}')}"
    )
    return f"What most likely helps: {longer}; then {then}."


def _against_overfitting(train: TrainParams) -> tuple[str, str]:
    """The first remedy that is not taken yet, and the change of params.yaml."""
    if not train.augmentation.kinds:
        return "augmentation", "train.augmentation.kinds=[shift,scale]"
    if train.network.dropout == 0:
        return "dropout", "train.network.dropout=0.1"
    if not train.stop_when_overfitting:
        return "an earlier end", "train.stop_when_overfitting=true"
    return "a narrower network", f"train.network.widths=[{','.join(str(width // 2) for width in train.network.widths)}]"


def _command(change: str) -> str:
    return f"`foundry set '{change}' && dvc repro`" if "[" in change else f"`foundry set {change} && dvc repro`"
