"""The HTTP service: one engine that draws the images of all requests together.

Start with `app.py`, BentoML's class around the API; `http/` is the HTTP side, `engine/` the thread that owns torch,
`runtime.py` holds both together. `serve.py`, `drain.py` and `replay.py` are commands. README.md has a map.

It may import `pipeline.artefacts`, `pipeline.diffusion` and `pipeline.errors`, and no other part of the pipeline.
"""

import pipeline  # noqa: F401, sets the variables that torch and ONNX Runtime read when they are loaded
