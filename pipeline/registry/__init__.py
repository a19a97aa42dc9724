"""The registered model: its versions, and which of them is champion.

Start with `registry`, which creates versions, then `aliases`, which moves `champion` and records each decision (`history`).
`logged_model` is what MLflow stores of a version, `model_card` what people read of it. Whether a version becomes champion is
decided in gate/.

May import evaluation, inference, tracking, provenance, artefacts and diffusion. MLflow is reached through
`tracking.store`; only `pyfunc_model`, which MLflow itself loads, imports it.
"""
