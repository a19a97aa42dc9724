"""From a folder of images to a registered image generator. The modules here are the stages and what all of them need.

Everything else stands in the room of its subject: docs/architecture.md. Begin with the stage `train.py`, or with
`diffusion/`.
"""

import os

# libgomp and ONNX Runtime read these when they are loaded, so they are set before anything imports torch or onnxruntime.
# By default threads that wait for each other spin without end: beside one other busy process on two cores training fell
# to 10 images/s, with 1,000 spins it kept 109 (DECISIONS.md). ONNX Runtime sends telemetry unless this disables it.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
