"""Measurements behind the figures in the docs; none of them runs in the tests."""

import pipeline  # noqa: F401, sets what torch and ONNX Runtime read when they are loaded
