"""params.yaml as frozen, checked objects: the only way in, and one section for each stage.

Overrides come from `dvc exp run -S section.key=value`. What does not change the result of a stage (device,
worker processes, paths) is not here: it would spoil DVC's cache.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.diffusion.unet import UNetConfig
from pipeline.errors import FoundryError

Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Sampler = Literal["ddpm", "ddim", "dpmpp_2m"]


class ParamsError(FoundryError):
    """params.yaml does not say what it must say; one line a finding."""


class Section(BaseModel):
    """A frozen section that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _no_name_twice(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        message = f"names should be used once (got {', '.join(twice)} more than once)"
        raise ValueError(message)
    return names


class PrepareParams(Section):
    """Stage `prepare`: from raw images to checked, packed pixels."""

    source: Literal["idx", "images", "archive", "arrays"] = Field(description="kind of data/raw, see docs/contracts.md")
    labelled: bool = Field(description="whether images have classes: sub-folders, label files or the array `labels`")
    class_names: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_no_name_twice)] | None = Field(
        description="names of the classes of IDX and arrays, by label; null: their numbers. Folders name their own"
    )
    image_size: int = Field(ge=4, le=512, description="pixels; images are resized and centre-cropped to this square")
    channels: Literal[1, 3] = Field(description="1 grey, 3 RGB")
    held_out_share: float = Field(
        gt=0, lt=1, description="share of images held out, chosen by content; IDX brings its own split"
    )
    min_num_images: int = Field(ge=2, description="fewest accepted images")
    max_broken_share: Share = Field(description="largest share of images that may be quarantined")
    max_duplicate_share: Share = Field(description="largest share of images that repeat another's pixels")
    max_blank_share: Share = Field(description="largest share of images of one single value")
    max_class_ratio: float = Field(ge=1, description="largest class over smallest class, by number of images")


class LinearBetas(Section):
    """Equally spaced betas (Ho et al. 2020)."""

    kind: Literal["linear"]
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    beta_end: float = Field(default=0.02, gt=0, lt=1)


class ScaledLinearBetas(Section):
    """Betas whose square roots are equally spaced (Rombach et al. 2022)."""

    kind: Literal["scaled_linear"]
    beta_start: float = Field(default=8.5e-4, gt=0, lt=1)
    beta_end: float = Field(default=0.012, gt=0, lt=1)


class CosineBetas(Section):
    """abar follows a squared cosine (Nichol and Dhariwal 2021)."""

    kind: Literal["cosine"]
    offset: float = Field(default=0.008, ge=0, lt=1)
    max_beta: float = Field(default=0.999, gt=0, le=1)


class SigmoidBetas(Section):
    """abar follows a sigmoid (Jabri et al. 2022)."""

    kind: Literal["sigmoid"]
    start: float = -3.0
    end: float = 3.0
    tau: float = Field(default=1.0, gt=0)
    max_beta: float = Field(default=0.999, gt=0, le=1)

    @model_validator(mode="after")
    def _end_is_above_start(self) -> SigmoidBetas:
        if self.end <= self.start:
            raise ValueError(f"end: should be above start {self.start} (got {self.end})")
        return self


class TrainedBetas(Section):
    """An explicit list, as diffusers' `trained_betas`."""

    kind: Literal["trained"]
    values: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(min_length=1, max_length=10_000)


Betas = Annotated[
    LinearBetas | ScaledLinearBetas | CosineBetas | SigmoidBetas | TrainedBetas, Field(discriminator="kind")
]


class UniformDensity(Section):
    """Every t alike."""

    kind: Literal["uniform"]


class LaplaceDensity(Section):
    """Laplace in log-SNR (Hang et al. 2024, arXiv 2407.03297)."""

    kind: Literal["laplace"]
    mean: float = 0.0
    scale: float = Field(default=0.5, gt=0)


class NormalDensity(Section):
    """Normal in log-SNR (Karras et al. 2022: log-normal in sigma)."""

    kind: Literal["normal"]
    mean: float = 0.0
    std: float = Field(default=2.0, gt=0)


Density = Annotated[UniformDensity | LaplaceDensity | NormalDensity, Field(discriminator="kind")]


class ScheduleParams(Section):
    """Stage `schedule`: the noise schedule and what follows from it and the data set."""

    num_timesteps: int = Field(ge=1, le=10_000, description="T")
    betas: Betas = Field(description="the variance schedule")
    zero_terminal_snr: bool = Field(description="rescale so that abar of the last t is 0 (Lin et al. 2023)")
    min_snr_gamma: float = Field(
        gt=0, description="largest of the loss weights min_snr (Hang et al. 2023) and bounded_snr"
    )
    snr_floor: float = Field(ge=0, description="smallest of the loss weight bounded_snr")
    density: Density = Field(description="how often training visits each t")
    max_prior_kl_bits_per_dim: float = Field(gt=0, description="gate on what the last t still knows of the image")
    max_terminal_snr: float = Field(gt=0, description="gate on abar/(1-abar) at the last t")

    @model_validator(mode="after")
    def _bounds_of_snr_are_in_order(self) -> ScheduleParams:
        if self.snr_floor > self.min_snr_gamma:
            raise ValueError(f"snr_floor: should be at most min_snr_gamma {self.min_snr_gamma} (got {self.snr_floor})")
        return self


class FeaturesParams(Section):
    """Stage `features`: the network whose features judge pictures."""

    extractor: Literal["auto", "classifier", "efficientnet_lite0", "random"] = Field(
        description="auto: classifier where there are labels, else efficientnet_lite0"
    )
    num_images: int = Field(ge=1, description="training length of the classifier in images seen")
    seed: Seed
    min_accuracy: Share = Field(description="gate on the classifier's accuracy on held-out images")


class TrainParams(Section):
    """Stage `train`: the network that predicts the clean image."""

    seed: Seed
    num_images: int = Field(ge=1, description="training length in images seen")
    batch_size: int = Field(ge=1)
    target: Literal["x0", "eps", "v"] = Field(description="what the network predicts")
    weighting: Literal["uniform", "min_snr", "bounded_snr", "snr", "vlb"] = Field(
        description="loss weight, whatever the target: uniform in x0; snr: uniform in eps, as DDPM; "
        "min_snr: snr up to schedule.min_snr_gamma; bounded_snr: that, and at least schedule.snr_floor; "
        "vlb: the likelihood's. See pipeline/diffusion/weighting.py"
    )
    learning_rate: float = Field(gt=0, description="of the convolutions, by Muon: peak, after warm-up")
    adam_learning_rate: float = Field(gt=0, description="of all else, by AdamW: peak, after warm-up")
    warmup_share: Share = Field(description="share of the length over which the learning rates rise")
    learning_rate_plan: Literal["decay", "constant"] = Field(
        description="decay: to zero at num_images; constant: with warmup_share 0 a finished run may be extended"
    )
    weight_decay: float = Field(ge=0)
    gradient_clip: float = Field(gt=0, description="largest norm of the gradient")
    label_dropout: Share = Field(description="share of images shown without their class, for guidance")
    horizontal_flip: bool = Field(description="mirror half of the images")
    ema_widths: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = Field(
        min_length=2,
        max_length=2,
        description="relative widths sigma_rel of the two power-function EMA tracks (Karras et al. 2024)",
    )
    num_snapshots: int = Field(ge=1, le=64, description="EMA snapshots kept for post-hoc EMA")
    num_grids: int = Field(ge=0, description="sample grids drawn on the way")
    network: UNetConfig = Field(description="the U-Net, see pipeline/diffusion/unet.py")


class EvaluateParams(Section):
    """Stage `evaluate`: the model's pictures and losses against real data and floors."""

    num_samples: int = Field(ge=100, description="2,000 for a look, 5,000 for a promotion")
    seed: Seed
    sampler: Sampler
    num_steps: int = Field(ge=1, le=1000, description="network calls an image")
    guidance_scales: tuple[Annotated[float, Field(ge=0, le=20)], ...] = Field(
        min_length=1, description="of which the best is chosen; 1: no guidance, as always where there are no classes"
    )
    guidance_images: int = Field(ge=4, description="images at each of guidance_scales, if there is more than one")
    ema_widths: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = Field(
        min_length=1, description="relative widths of the post-hoc EMA, of which the best is chosen"
    )
    tuning_rows: int = Field(ge=0, description="network rows that refining the times may take; 0: leave them")
    baseline_components: int = Field(ge=1, description="Gaussians in the mixture that a model must beat")
    likelihood_num_images: int = Field(ge=2, description="held-out images whose bits/dim are bounded")
    compared_steps: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        description="numbers of steps at which KID is measured besides num_steps; [] for none"
    )
    compared_images: int = Field(ge=4, description="images at each of them, num_samples at most")


class RegisterParams(Section):
    """`foundry model register`: which registered model, and what a challenger must keep to be champion."""

    model_name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="MLflow registered model")
    confidence: float = Field(ge=0.5, lt=1, description="of the interval of the difference between two models' KID")
    max_kid_rise: float = Field(
        ge=0, description="how much worse KID may be where the data are new: share of the champion's"
    )
    max_latency_ratio: float = Field(gt=0, description="time for a batch of pictures over the champion's")
    max_memory_ratio: float = Field(gt=0, description="peak memory while drawing over the champion's")
    max_size_ratio: float = Field(gt=0, description="bytes of the weights over the champion's")
    max_class_total_variation: Share = Field(
        description="distance of the class shares from those of held-out images; a worse champion may be matched"
    )


class Params(Section):
    """All of params.yaml."""

    prepare: PrepareParams
    schedule: ScheduleParams
    features: FeaturesParams
    train: TrainParams
    evaluate: EvaluateParams
    register_: RegisterParams = Field(alias="register")

    @model_validator(mode="after")
    def _noise_is_not_predicted_where_nothing_else_is_left(self) -> Params:
        if self.schedule.zero_terminal_snr and self.train.target == "eps":
            raise ValueError("train.target: should be v or x0 with schedule.zero_terminal_snr (got eps)")
        return self

    @model_validator(mode="after")
    def _no_sampler_takes_more_steps_than_there_are(self) -> Params:
        steps, limit = self.evaluate.num_steps, self.schedule.num_timesteps
        if steps > limit:
            raise ValueError(f"evaluate.num_steps: should be at most schedule.num_timesteps {limit} (got {steps})")
        return self

    @model_validator(mode="after")
    def _trained_betas_are_as_many_as_timesteps(self) -> Params:
        betas, wanted = self.schedule.betas, self.schedule.num_timesteps
        if isinstance(betas, TrainedBetas) and len(betas.values) != wanted:
            message = f"schedule.betas.values: {len(betas.values)} values for schedule.num_timesteps {wanted}"
            raise ValueError(message)
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check `path`; every finding is reported at once.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds a wrong, missing or unknown key.

    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    # JSON mode is strict without refusing lists for tuples: `seed: no` must not become 0.
    try:
        return Params.model_validate_json(json.dumps(document, allow_nan=True), strict=True)
    except TypeError as error:
        raise ParamsError(f"{path}: {error}") from None
    except ValidationError as error:
        lines = [_finding(path, dict(finding)) for finding in error.errors()]
        raise ParamsError("\n".join(lines)) from None


def _finding(path: Path, finding: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in finding["loc"])
    message = str(finding["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if finding["type"] == "value_error":
        return f"{path}: {where + ': ' if where else ''}{message}"
    if finding["type"] == "missing":
        return f"{path}: {where}: is missing"
    return f"{path}: {where}: {message} (got {json.dumps(finding['input'], default=str)[:80]})"
