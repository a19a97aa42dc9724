"""Every tag of MLflow that more than one module knows."""

STAGE_TAG, PARENT_TAG = "dvc.stage", "mlflow.parentRunId"
DIGEST_TAG = "model.digest"
