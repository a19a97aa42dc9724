"""The experiment that holds all runs, as MLflow's pages show it: its description and the columns of its table."""

import json

from pipeline.tracking.tags import NOTE_TAG

NAME = "diffusion-foundry"
ABOUT = """Each run is one pipeline: its name says what is new, and its stages are the runs below it. The run
*pictures of …* below it has the samples, with a slider over the training, in its tab *Model metrics*.

| to | type |
|---|---|
| put runs beside each other: samples, curves, figures with intervals | `foundry runs compare RUN RUN …` |
| get code, params, data and model of a run again | `foundry runs restore RUN` |
| list runs with their figures and registered versions | `foundry runs list` |
| log the stages that DVC took from its cache | `foundry runs reconcile` |
"""
VIEW = "pipelines"
"""Name of the shared view of the table, as the page's address has it."""
COLUMNS = {
    "metrics.`evaluate/kid_to_all`": 150,
    "metrics.`evaluate/frechet_distance`": 190,
    "metrics.`evaluate/class_agreement`": 190,
    "metrics.`evaluate/recall`": 120,
    "attributes.`Models`": 160,
}
"""Columns of the table of runs and their widths in pixels; MLflow's own are data set, source and models."""
TAGS = {
    # For this kind MLflow shows its pages of model training, by default those for language models.
    "mlflow.experimentKind": "custom_model_development",
    NOTE_TAG: ABOUT,
    f"mlflow.sharedViewState.{VIEW}": json.dumps(
        {"selectedColumns": list(COLUMNS), "columnOrder": list(COLUMNS), "columnWidths": COLUMNS}
    ),
}


def page(experiment_id: str) -> str:
    """The address of the table of runs, relative to its server."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"
