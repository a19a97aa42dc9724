"""The registered model: its versions, which of them is champion, and how that is decided.

Start with `promotion`, the rules as pure functions; then `comparison`, which measures a challenger and the champion in
processes of their own (`trial`), and `kid_difference`, which knows the luck of images and seeds; then `registry`, which creates
versions, and `aliases`, which moves `champion` and records each decision (`history`). `logged_model` is what MLflow stores of
a version.

May import evaluation, inference, tracking, provenance, artefacts and diffusion. MLflow is reached through
`tracking.store`; only `pyfunc_model`, which MLflow itself loads, imports it.
"""
