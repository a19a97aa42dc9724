"""Benchmarks behind the figures of the docs.

They import pipeline/ and service/; neither imports them. `protocol` has the shared parts (options, timing, tables,
JSON); `systems` has the arms of a comparison with other packages; every other module is a benchmark or a part of one.
Begin with README.md, then `time_to_quality`. The tests cover the arithmetic; no test runs a benchmark.
"""

import pipeline  # noqa: F401, sets what torch and ONNX Runtime read when they are loaded
