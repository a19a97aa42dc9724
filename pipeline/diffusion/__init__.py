"""The mathematics: noise schedules, training targets and losses, networks, samplers, timetables.

Imports only torch, NumPy and the error class: no files, no printing, no state. Begin reading with noise.py (the forward
process), target.py and loss.py (training), then sampling.py (every sampler as a table); docs/forward-process.md runs
all of it by example.

| subject | modules |
|---|---|
| forward process | betas, noise, density |
| training | target, loss, weighting, augmentation, ema, distillation |
| network | unet, patch_filter, denoiser, images |
| sampling | samplers, sampling, guidance, guidance_interval, seeds |
| sampling times | timetables, surrogate, refinement |
| the data's distribution | moments, gaussian, likelihood |

Notation, the same in every file (Ho et al. 2020, arXiv 2006.11239, unless named):

| name | is | shape |
|---|---|---|
| `T`, `t` | number of noise levels; the level, `0 … T-1` | `[rows]` int64 |
| `beta` | variance that step t adds | `[T]` float64 |
| `alpha` | `1 - beta` | `[T]` |
| `abar` | `prod_{i<=t} alpha_i`; `abar_{-1} = 1` | `[T]` |
| `snr` | `abar / (1 - abar)`, signal-to-noise ratio (Kingma et al. 2021) | `[T]` |
| `sigma` | `sqrt((1 - abar) / abar)`, noise std of `x / sqrt(abar)` (Karras et al. 2022) | `[T]` |
| `x0` | clean image in [-1, 1] | `[rows, channels, height, width]` |
| `eps` | unit Gaussian noise | like `x0` |
| `x` | noisy image `sqrt(abar) x0 + sqrt(1 - abar) eps` (eq. 4) | like `x0` |
| `v` | `sqrt(abar) eps - sqrt(1 - abar) x0` (Salimans and Ho 2022) | like `x0` |
| `denoised` | estimate of `x0` | like `x0` |
| `labels` | class indices; the null class is `num_classes` | `[rows]` int64 |
| `sigma_data` | std of the training pixels in [-1, 1] | scalar |
"""
