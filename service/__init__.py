"""The service: one engine that draws every request's images together. It knows `pipeline.diffusion` and no more."""
