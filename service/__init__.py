"""The service: one engine that draws every request's images together. It knows `pipeline.diffusion` and no more."""

import pipeline  # noqa: F401, sets what torch and ONNX Runtime read when they are loaded
