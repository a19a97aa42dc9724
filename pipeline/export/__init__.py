"""A model for others to use: a Bento with the service, ONNX, torch.export, diffusers, a bill of materials.

Begin with `bundle.py` (a checked copy of a model) and `denoiser.py` (the traced denoiser and the comparison that each
export must pass). Each format has a module of its own; only `bento.py` imports bentoml, only `sbom.py` cyclonedx.
May import registry and the rooms below it; commands import this room.
"""
