"""Load params.yaml as frozen, validated objects: one section per stage.

This file is the documentation of params.yaml and has more than 300 lines for that reason. Ranges are those of `Field`:
`ge` and `le` include the limit, `gt` and `lt` do not; a `Share` is a fraction from 0 to 1.

`dvc exp run -S section.key=value` and `foundry set section.key=value` override values. Settings that do not change the
result of a stage (device, number of processes, paths) are not params, since a change would re-run the stage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.artefacts.image_size import ImageSize, height_and_width, image_size
from pipeline.diffusion.augmentation import AugmentationConfig
from pipeline.diffusion.samplers import Sampler
from pipeline.diffusion.unet import UNetConfig
from pipeline.errors import FoundryError
from pipeline.param_findings import findings

Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
TrainingLength = Annotated[int, Field(ge=1, le=10**11)]
"""Images seen; the largest published trainings see some 10^10."""
BatchSize = Annotated[int, Field(ge=1, le=2**16)]
NumImages = Annotated[int, Field(le=10**6)]
"""Images that are drawn, or measured, at once."""


def _rising(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] >= interval[1]:
        raise ValueError(f"should begin before it ends (got {list(interval)})")
    return interval


GuidedPart = Annotated[tuple[Share, Share], AfterValidator(_rising)]


class ParamsError(FoundryError):
    """params.yaml is invalid; the message has one line per finding."""


def _no_truth(value: Any) -> Any:
    """Refuse yes and no, which are equal to 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"should be a number (got {json.dumps(value)})")  # noqa: TRY004  # pydantic wants it
    return value


class Section(BaseModel):
    """A frozen section that rejects unknown keys and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"names should be unique (got {', '.join(repeated)} more than once)")
    return names


SIDES = range(4, 513)
"""Sides of prepared images, in pixels."""


def _prepared_size(value: object) -> ImageSize:
    size = image_size(value)
    if not all(side in SIDES for side in height_and_width(size)):
        raise ValueError(f"sides should be in {SIDES.start} … {SIDES.stop - 1} pixels (got {value})")
    return size


class PrepareParams(Section):
    """Stage `prepare`: from raw images to checked, packed pixels."""

    source: Literal["idx", "images", "archive", "arrays"] = Field(description="kind of data/raw (docs/contracts.md)")
    labelled: bool = Field(description="whether images have classes: sub-folders, label files or the array `labels`")
    class_names: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_unique)] | None = Field(
        description="names of the classes of IDX and arrays, by label; null: the numbers. Folders have names of their own"
    )
    image_size: Annotated[ImageSize, BeforeValidator(_prepared_size)] = Field(
        description="side of the prepared square, or [height, width], in pixels"
    )
    channels: Annotated[Literal[1, 3, 4], BeforeValidator(_no_truth)] = Field(
        description="1: grey, 3: RGB, 4: RGB and alpha"
    )
    background: Literal["white", "black", "grey"] = Field(description="colour below transparent pixels")
    value_range: tuple[float, float] | None = Field(
        description="the values of black and white in images of more than 8 bits; null: decided once for the whole set "
        "(pipeline/ingestion/value_range.py)"
    )
    min_side: int = Field(
        ge=1,
        # The shorter side of the largest image that is read, of 2^26 pixels.
        le=2**13,
        description="least shorter side of a source image, in pixels; smaller ones are quarantined",
    )
    held_out_share: float = Field(
        gt=0,
        lt=1,
        description="share of images held out; ignored where the source has a split of its own (IDX, folders train and test)",
    )
    min_num_images: int = Field(ge=2, le=10**9, description="check: least number of accepted images")
    max_broken_share: Share = Field(description="check: largest share of quarantined files")
    max_duplicate_share: Share = Field(description="check: largest share of images that repeat another's pixels")
    max_blank_share: Share = Field(description="check: largest share of images with a single pixel value")
    max_noise_share: Share = Field(description="check: largest share of images whose neighbouring pixels are unrelated")
    max_class_ratio: float = Field(ge=1, description="check: largest class over smallest class, in images")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels of prepared images."""
        return *height_and_width(self.image_size), self.channels

    @model_validator(mode="after")
    def _require_white_above_black(self) -> PrepareParams:
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError(f"value_range: should be [black, white], black below white (got {list(self.value_range)})")
        return self


class LinearBetas(Section):
    """Equally spaced betas (Ho et al. 2020).

    The numbers of this and the other kinds may be left out, so that `dvc exp run -S schedule.betas.kind=linear` changes the
    kind alone; docs/contracts.md lists their defaults. No other key has one.
    """

    kind: Literal["linear"]
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    beta_end: float = Field(default=0.02, gt=0, lt=1)


class ScaledLinearBetas(Section):
    """Betas with equally spaced square roots (Rombach et al. 2022)."""

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
    def _require_end_above_start(self) -> SigmoidBetas:
        if self.end <= self.start:
            raise ValueError(f"end: should be above start {self.start} (got {self.end})")
        return self


class TrainedBetas(Section):
    """An explicit list of T betas, like diffusers' `trained_betas`."""

    kind: Literal["trained"]
    values: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(min_length=1, max_length=10_000)


Betas = Annotated[
    LinearBetas | ScaledLinearBetas | CosineBetas | SigmoidBetas | TrainedBetas, Field(discriminator="kind")
]


class UniformDensity(Section):
    """Every t with the same probability."""

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
    """Stage `schedule`: the noise schedule, its loss weights and density, and the limits it must keep."""

    num_timesteps: int = Field(ge=1, le=10_000, description="number of noise levels T")
    betas: Betas = Field(description="the variance schedule, by `kind`")
    zero_terminal_snr: bool = Field(description="rescale the betas so that abar is 0 at the last t (Lin et al. 2023)")
    min_snr_gamma: float = Field(
        gt=0, description="upper limit of the loss weights min_snr (Hang et al. 2023) and bounded_snr"
    )
    snr_floor: float = Field(ge=0, description="lower limit of the loss weight bounded_snr, at most min_snr_gamma")
    density: Density = Field(description="probability of each t in training, by `kind`")
    max_prior_kl_bits_per_dim: float = Field(gt=0, description="check: KL divergence to pure noise at the last t")
    max_terminal_snr: float = Field(gt=0, description="check: abar/(1-abar) at the last t")

    @model_validator(mode="after")
    def _require_floor_below_gamma(self) -> ScheduleParams:
        if self.snr_floor > self.min_snr_gamma:
            raise ValueError(f"snr_floor: should be at most min_snr_gamma {self.min_snr_gamma} (got {self.snr_floor})")
        return self


class FeaturesParams(Section):
    """Stage `features`: the network whose features measure image quality."""

    extractor: Literal["auto", "classifier", "efficientnet_lite0", "random"] = Field(
        description="auto: classifier if there are labels, else efficientnet_lite0"
    )
    num_images: TrainingLength = Field(description="training length of the classifier, in images seen")
    seed: Seed = Field(description="seed of the classifier's training and of the choice of images")
    min_accuracy: Share = Field(description="check: least accuracy of the classifier on held-out images")


class TrainParams(Section):
    """Stage `train`: the network that predicts the clean image."""

    seed: Seed = Field(description="seed of initial weights, order of images, noise and label dropout")
    num_images: TrainingLength = Field(description="training length, in images seen")
    batch_size: BatchSize = Field(description="images per step, over all processes")
    micro_batch_size: BatchSize | None = Field(
        description="images whose gradients are computed at once; null: a process's whole share of a batch. If set, the "
        "weights do not depend on the number of processes; smaller values need less memory",
    )
    target: Literal["x0", "eps", "v"] = Field(description="prediction of the network: clean image, noise or v")
    weighting: Literal["uniform", "min_snr", "bounded_snr", "snr", "vlb"] = Field(
        description="loss weight of a noise level, applied to the error of the clean image whichever the target; "
        "uniform: 1; snr: as DDPM's loss of eps; min_snr: snr up to schedule.min_snr_gamma; bounded_snr: the same, and at "
        "least schedule.snr_floor; vlb: that of the likelihood bound. See pipeline/diffusion/weighting.py"
    )
    learning_rate: float = Field(gt=0, description="peak learning rate of Muon, which trains the convolutions")
    adam_learning_rate: float = Field(gt=0, description="peak learning rate of AdamW, which trains all other weights")
    warmup_share: Share = Field(description="share of the training in which the learning rates rise to their peaks")
    learning_rate_plan: Literal["decay", "constant"] = Field(
        description="decay: to 0 at num_images; constant: with warmup_share 0, a finished training can be extended"
    )
    weight_decay: float = Field(ge=0, description="decoupled weight decay")
    gradient_clip: float = Field(gt=0, description="largest L2 norm of the gradient; larger ones are scaled down")
    label_dropout: Share = Field(description="share of images trained on without their class, for guidance")
    horizontal_flip: bool = Field(
        description="mirror half of the images, chosen at random; samples are then mirrored too, unlike with augmentation"
    )
    augmentation: AugmentationConfig = Field(
        description="changes of training images that samples do not show, see pipeline/diffusion/augmentation.py"
    )
    ema_widths: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = Field(
        min_length=2,
        max_length=2,
        description="relative widths sigma_rel of the two power-function EMAs (Karras et al. 2024)",
    )
    num_snapshots: int = Field(
        ge=1, le=64, description="EMA snapshots stored for post-hoc EMA; the held-out error is measured at each"
    )
    stop_when_overfitting: bool = Field(
        description="stop when the held-out error rises, and keep the weights of the snapshot before; false: only warn"
    )
    num_grids: int = Field(
        ge=0,
        le=1000,
        description="sample grids drawn during training, besides those after 1, 2, 5 and 10 %; 0 for none at all",
    )
    network: UNetConfig = Field(description="architecture of the U-Net, see pipeline/diffusion/unet.py")


class DistilParams(Section):
    """The end of stage `train`: the model is replaced by a student that draws its images in few steps without guidance."""

    steps: Annotated[Literal[1, 2, 4] | None, BeforeValidator(_no_truth)] = Field(
        description="network calls per image of the student; null: no student"
    )
    num_images: TrainingLength = Field(description="length of the student's training, in images seen")
    teacher_steps: int = Field(
        ge=4, le=1000, description="steps of the teacher's DPM-Solver++ 2M, at most schedule.num_timesteps"
    )
    guidance_scale: float = Field(
        ge=0, le=20, description="guidance of the teacher; 1: none, as always without classes"
    )
    guidance_interval: GuidedPart = Field(description="the part of the teacher's steps that is guided")
    feature_weight: float = Field(
        ge=0, description="weight of the error in the teacher network's features; the error of the pixels has weight 1"
    )
    learning_rate_ratio: float = Field(
        gt=0, description="the student's peak learning rates, relative to those of train"
    )


class AncestorParams(Section):
    """The beginning of stage `train`: a registered model whose weights initialise the network, instead of random ones."""

    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        description="of the model in data/ancestor/model, where `foundry set --start-from` puts it; null: no ancestor"
    )
    train_share: float = Field(
        gt=0, le=1, description="length of a training that starts from it, as a share of train.num_images"
    )
    learning_rate_ratio: float = Field(
        gt=0, description="peak learning rates of such a training, relative to those of train"
    )


class EvaluateParams(Section):
    """Stage `evaluate`: how to sample, and how many images to measure."""

    num_samples: NumImages = Field(ge=100, description="images sampled and measured; 5,000 to decide on a promotion")
    seed: Seed = Field(description="seed of samples, noise and baseline")
    sampler: Sampler = Field(description="ancestral DDPM, DDIM or DPM-Solver++ 2M")
    num_steps: int = Field(ge=1, le=1000, description="network calls per image, at most schedule.num_timesteps")
    guidance_scales: tuple[Annotated[float, Field(ge=0, le=20)], ...] = Field(
        min_length=1, description="candidates for the guidance scale; 1: no guidance, as always without classes"
    )
    guidance_intervals: tuple[GuidedPart, ...] = Field(
        min_length=1, description="candidates for the part of the steps that is guided, begin and end in 0 … 1"
    )
    guidance_images: NumImages = Field(ge=4, description="images sampled per candidate, if there is more than one")
    ema_widths: tuple[Annotated[float, Field(gt=0, lt=0.28)], ...] = Field(
        min_length=1, description="candidates for the relative width of the post-hoc EMA"
    )
    tuning_rows: int = Field(
        ge=0,
        le=10**8,
        description="images passed through the network to refine the sampling times; 0: none",
    )
    baseline_components: int = Field(ge=1, le=10_000, description="number of Gaussians in the baseline mixture")
    likelihood_num_images: NumImages = Field(ge=2, description="held-out images whose bits/dim are bounded")
    compared_rows: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        description="further numbers of unguided steps at which quality is measured; each costs one network row per image"
    )
    compared_images: NumImages = Field(ge=4, description="images sampled at each of compared_rows, at most num_samples")


MODEL_NAME = "[a-z0-9][a-z0-9-]{0,62}"
"""Pattern of the names of registered models."""


class RegisterParams(Section):
    """`foundry model register`: the registered model, and the limits a challenger must keep to become champion."""

    model_name: str = Field(pattern=f"^{MODEL_NAME}$", description="name of the registered model in MLflow")
    max_false_promotion: float = Field(
        gt=0,
        le=0.5,
        description="probability that luck alone promotes a challenger: on the same data one no better than the champion, "
        "on new data one worse by max_kid_rise",
    )
    power: float = Field(
        gt=0, lt=1, description="probability with which an improvement of smallest_improvement should be found"
    )
    smallest_improvement: float = Field(
        gt=0, lt=1, description="least fall of KID, as a share of the champion's, that is worth another training"
    )
    max_kid_rise: float = Field(ge=0, description="how much worse KID may be on new data, as a share of the champion's")
    max_latency_ratio: float = Field(
        gt=0, description="largest ratio to the champion's multiply-adds for an image, and to its time for a batch"
    )
    max_memory_ratio: float = Field(
        gt=0, description="largest ratio to the champion's weights and tensors at their peak"
    )
    max_size_ratio: float = Field(gt=0, description="largest ratio to the champion's weights in bytes")
    max_class_total_variation: Share = Field(
        description="largest total variation between the class shares of samples and of held-out images; the champion's, "
        "if that is larger"
    )

    @model_validator(mode="after")
    def _require_power_above_luck(self) -> RegisterParams:
        if self.power <= self.max_false_promotion:
            raise ValueError(
                f"power: should be above max_false_promotion {self.max_false_promotion}, or better challengers are promoted "
                f"no more often than lucky ones (got {self.power})"
            )
        return self


class Params(Section):
    """The whole of params.yaml."""

    prepare: PrepareParams
    schedule: ScheduleParams
    features: FeaturesParams
    train: TrainParams
    ancestor: AncestorParams
    distil: DistilParams
    evaluate: EvaluateParams
    register_: RegisterParams = Field(alias="register")

    @property
    def training(self) -> TrainParams:
        """`train`; for a training that starts from an ancestor, with its shorter length and its learning rates."""
        if self.ancestor.digest is None:
            return self.train
        ratio = self.ancestor.learning_rate_ratio
        return self.train.model_copy(
            update={
                "num_images": max(1, round(self.ancestor.train_share * self.train.num_images)),
                "learning_rate": ratio * self.train.learning_rate,
                "adam_learning_rate": ratio * self.train.adam_learning_rate,
            }
        )

    @property
    def student(self) -> DistilParams | None:
        """`distil`, if the pipeline makes a student."""
        return None if self.distil.steps is None else self.distil

    @model_validator(mode="after")
    def _forbid_eps_at_zero_snr(self) -> Params:
        if self.schedule.zero_terminal_snr and self.train.target == "eps":
            raise ValueError("train.target: should be v or x0 with schedule.zero_terminal_snr (got eps)")
        return self

    @model_validator(mode="after")
    def _require_a_size_that_the_network_can_halve(self) -> Params:
        size, network = self.prepare.image_size, self.train.network
        divisor = network.patch_size * 2 ** (len(network.widths) - 1)
        if any(side % divisor for side in height_and_width(size)):
            raise ValueError(
                f"prepare.image_size: should be a multiple of {divisor}, of train.network's patch_size times 2 for each level "
                f"but the first (got {size})"
            )
        return self

    @model_validator(mode="after")
    def _require_a_network_that_can_see_all_of_a_patch(self) -> Params:
        network = self.train.network
        values, width = network.patch_size**2 * self.prepare.channels, network.widths[0]
        if width < values:
            raise ValueError(
                f"train.network.widths: the first should be at least {values}, patch_size^2 * prepare.channels: the noise in "
                f"the other {values - width} values of a patch would stay (got {width})"
            )
        return self

    @model_validator(mode="after")
    def _limit_num_steps(self) -> Params:
        limit = self.schedule.num_timesteps
        if (steps := self.evaluate.num_steps) > limit:
            raise ValueError(f"evaluate.num_steps: should be at most schedule.num_timesteps {limit} (got {steps})")
        if self.distil.steps is not None and (steps := self.distil.teacher_steps) > limit:
            raise ValueError(f"distil.teacher_steps: should be at most schedule.num_timesteps {limit} (got {steps})")
        return self

    @model_validator(mode="after")
    def _require_one_trained_beta_per_timestep(self) -> Params:
        betas, wanted = self.schedule.betas, self.schedule.num_timesteps
        if isinstance(betas, TrainedBetas) and len(betas.values) != wanted:
            raise ValueError(
                f"schedule.betas.values: should be schedule.num_timesteps {wanted} (got {len(betas.values)})"
            )
        return self


class _Loader(yaml.SafeLoader):
    """Reads `1e-05`, as DVC writes it, as a number, like YAML 1.2; in YAML 1.1, which PyYAML implements, it is a string."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """A mapping, in which no key stands twice: PyYAML would take the last."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"the key {repeated[0]} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def read_params_text(text: str) -> Any:
    """The content of a params.yaml, not validated.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and validate `path`.

    Raises:
        ParamsError: the file is missing or is not YAML, or a key is invalid, missing or unknown; lists all findings.
    """
    return parse_params(read_params(path), path)


def read_params(path: Path) -> Any:
    """The content of a params.yaml, which need not be valid.

    Raises:
        ParamsError: the file is missing or is not YAML.
    """
    try:
        return read_params_text(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the project's folder") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not YAML: {in_one_line(error)}") from None


def in_one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split())


def parse_params(document: Any, path: Path = Path("params.yaml")) -> Params:
    """Validate the content of a params.yaml, whose name in errors is `path`.

    Raises:
        ParamsError: a key is invalid, missing or unknown; lists all findings.
    """
    if large := list(_too_large(document)):
        raise ParamsError("\n".join(f"{path}: {where}: should be below 2^63 (got {value})" for where, value in large))
    # Strict, so that `seed: no` is an error and not 0; in JSON mode, which accepts a list for a tuple.
    try:
        return Params.model_validate_json(json.dumps(document, allow_nan=True), strict=True)
    except TypeError as error:
        raise ParamsError(f"{path}: {error}") from None
    except ValidationError as error:
        raise ParamsError("\n".join(f"{path}: {finding}" for finding in findings(error, Params))) from None


def _too_large(value: Any, where: str = "") -> Iterator[tuple[str, int]]:
    """Integers that do not fit into an int64 tensor, with their keys."""
    if isinstance(value, int) and abs(value) >= 2**63:
        yield where, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _too_large(part, f"{where}.{key}" if where else str(key))
