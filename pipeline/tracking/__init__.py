"""Runs in MLflow, and their way there through an outbox on disk.

Imports `provenance`, `artefacts` and below. MLflow is imported by `store.mlflow` alone, at its first use; other rooms
ask that function for the package too. Begin with `runs`, which stages use: what a stage logs goes into its `outbox`, and
`shipper` sends it from a background thread. `reconcile` completes the list of runs with what DVC took from its cache.
"""
