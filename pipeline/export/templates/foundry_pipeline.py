# ruff: noqa: INP001, ARG002  an exported folder is no package; register_to_config reads the arguments
"""A pipeline for diffusers that draws a Diffusion Foundry model's images with its samplers.

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe(class_labels=[3, 3, 5], seeds=[1, 2, 3]).images

Each image has a seed of its own and does not depend on the others of its batch. Each step of each sampler is
x' = A x + B x0 + C x0_prev + D z.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import register_to_config
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput

ETA = {"ddpm": 1.0, "ddim": 0.0, "dpmpp_2m": 0.0}
"""The samplers, each with its noise as a share of DDPM's; ddim takes another one as `eta`."""


class FoundryPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers is untyped
    """A U-Net with its noise schedule, sampling defaults and timetables."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        unet: torch.nn.Module,
        betas: list[float] | None = None,
        target: str = "v",
        timetables: dict[str, dict[str, list[int]]] | None = None,
        sampler: str = "dpmpp_2m",
        num_steps: int = 20,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        class_names: list[str] | None = None,
        model_digest: str | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int] | None = None,
        seeds: list[int] | None = None,
        sampler: str | None = None,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw one image per seed.

        Args:
            class_labels: class of every image; None: no class.
            seeds: one per image, each in 0 … 2^63 - 1; None: one image with seed 0.
            sampler: one of `ETA`; None: the model's default.
            num_inference_steps: number of calls of the network; None: the model's default.
            eta: noise of `ddim`, 0 … 1.
            guidance_scale: 1 for no guidance; None: the model's default.
            guidance_interval: where in the steps guidance begins and ends, as shares of them; None: the model's default.
            output_type: `pil`, `np` (float `[n, height, width, channels]` in 0 … 1) or `pt` (in -1 … 1).

        Raises:
            ValueError: an argument is out of its range or does not fit the model.
        """
        config, size = self.config, self.unet.config
        sampler = sampler or config.sampler
        times = self._times(sampler, num_inference_steps or config.num_steps)
        scale = config.guidance_scale if guidance_scale is None else guidance_scale
        begin, end = guidance_interval or config.guidance_interval
        if not 0 <= begin < end <= 1:
            raise ValueError(f"guidance_interval: should be 0 <= begin < end <= 1 (got {begin}, {end})")
        generators = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds or [0]]
        labels = self._labels(class_labels, len(generators))
        if scale != 1 and class_labels is None:
            raise ValueError(f"guidance_scale: should be 1 for images without a class (got {scale})")

        def noise() -> torch.Tensor:
            sides = [size.image_size] * 2 if isinstance(size.image_size, int) else size.image_size
            shape = (size.channels, *sides)
            drawn = np.stack([generator.standard_normal(shape, dtype=np.float32) for generator in generators])
            return torch.from_numpy(drawn).to(self.device, self.unet.dtype)

        x = noise()
        x0_prev = torch.zeros_like(x)
        scales = [scale if begin <= step / len(times) < end else 1.0 for step in range(len(times))]
        for t, guidance, (A, B, C, D) in self.progress_bar(
            list(zip(times, scales, self._coefficients(sampler, times, eta), strict=True))
        ):
            x0 = self._denoised(x, t, labels, guidance).clamp(-1, 1)
            z = noise() if D else torch.zeros_like(x)
            x, x0_prev = A * x + B * x0 + C * x0_prev + D * z, x0
        return ImagePipelineOutput(images=self._as(output_type, x))

    def _times(self, sampler: str, num_steps: int) -> list[int]:
        """The model's timetable of this sampler and length, else its nearest one stretched, else equally spaced times."""
        known, T = (self.config.timetables or {}).get(sampler, {}), len(self.config.betas)
        if not 1 <= num_steps <= T:
            raise ValueError(f"num_inference_steps: should be in 1 … {T} (got {num_steps})")
        if str(num_steps) in known:
            return list(known[str(num_steps)])
        if not known:
            equal = (T - torch.arange(num_steps, dtype=torch.float64) * T / num_steps).round().long() - 1
            return [int(t) for t in equal]
        lengths = sorted(map(int, known))
        nearest = next((length for length in lengths if length > num_steps), lengths[-1])
        times = torch.tensor(known[str(nearest)], dtype=torch.float64)
        place = torch.linspace(0, nearest - 1, num_steps, dtype=torch.float64)
        low, high = place.floor().long(), place.ceil().long()
        t = torch.lerp(times[low], times[high], place - low).round().long()
        # Strictly falling from T - 1: each moves as little as the ones before it allow.
        order = torch.arange(num_steps)
        room = torch.maximum(t, num_steps - 1 - order)
        room[0] = T - 1
        return [int(t) for t in (room + order).cummin(dim=0).values - order]

    def _coefficients(self, sampler: str, times: list[int], eta: float) -> list[list[float]]:
        """A, B, C and D of each step."""
        if sampler not in ETA or not 0 <= eta <= 1 or (eta and sampler != "ddim"):
            raise ValueError(
                f"sampler {sampler} with eta {eta}: should be one of {', '.join(ETA)}, eta in 0 … 1 for ddim"
            )
        share = eta if sampler == "ddim" else ETA[sampler]
        abar = self._abar()[times]
        abar_next = torch.cat([abar[1:], torch.ones_like(abar[:1])])
        # sigma^2 = eta^2 (1 - abar_next) / (1 - abar) (1 - abar / abar_next), Song et al. 2021, eq. 16
        variance = share**2 * (1 - abar_next) / (1 - abar) * (1 - abar / abar_next)
        # x' = sqrt(abar_next) x0 + sqrt(1 - abar_next - sigma^2) eps + sigma z, eq. 12
        A = ((1 - abar_next - variance).clamp(min=0) / (1 - abar)).sqrt()
        B = abar_next.sqrt() - abar.sqrt() * A
        # x0 is extrapolated to (1 + k) x0 - k x0_prev, Lu et al. 2022, algorithm 2
        k = torch.zeros_like(A)
        if sampler == "dpmpp_2m":
            h = (abar_next / (1 - abar_next) / abar * (1 - abar)).log() / 2
            k[1:-1] = h[1:-1] / (2 * h[:-2])
        D = variance.sqrt()
        D[-1] = 0
        table: list[list[float]] = torch.stack([A, (1 + k) * B, -k * B, D], dim=1).tolist()
        return table

    def _denoised(self, x: torch.Tensor, t: int, labels: torch.Tensor | None, scale: float) -> torch.Tensor:
        """Estimate of the clean images, guided (Ho and Salimans 2022, eq. 6) where the scale is not 1."""
        if scale == 1 or labels is None:
            return self._estimate(x, t, labels)
        null = torch.full_like(labels, self.unet.config.num_classes)
        wanted, plain = self._estimate(torch.cat([x, x]), t, torch.cat([labels, null])).chunk(2)
        return plain + scale * (wanted - plain)

    def _estimate(self, x: torch.Tensor, t: int, labels: torch.Tensor | None) -> torch.Tensor:
        prediction: torch.Tensor = self.unet(x, torch.full((len(x),), t, device=x.device), labels)
        abar = self._abar()[t].item()
        a, b = abar**0.5, (1 - abar) ** 0.5
        estimates = {"x0": (0.0, 1.0), "eps": (1 / a if a else 0.0, -b / a if a else 0.0), "v": (a, -b)}
        P, Q = estimates[self.config.target]
        # Clipped before guidance too, since pixels beyond [-1, 1] mean nothing.
        x0: torch.Tensor = (P * x + Q * prediction).clamp(-1, 1)
        return x0

    def _abar(self) -> torch.Tensor:
        return (1 - torch.tensor(self.config.betas, dtype=torch.float64)).cumprod(0)

    def _labels(self, class_labels: list[int] | None, rows: int) -> torch.Tensor | None:
        num_classes = self.unet.config.num_classes
        if not num_classes:
            if class_labels is not None:
                raise ValueError(f"class_labels: the model knows no classes (got {class_labels})")
            return None
        labels = [num_classes] * rows if class_labels is None else list(class_labels)
        if len(labels) != rows or (class_labels and not all(0 <= label < num_classes for label in class_labels)):
            raise ValueError(
                f"class_labels: should be one per seed, each in 0 … {num_classes - 1} (got {class_labels})"
            )
        return torch.tensor(labels, device=self.device)

    def _as(self, output_type: str, x: torch.Tensor) -> object:
        if output_type == "pt":
            return x
        images: np.ndarray = ((x.float().cpu() + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return self.numpy_to_pil(images) if output_type == "pil" else images
