"""Charts of several models over common axes."""

from collections.abc import Sequence

from pipeline.reporting.charts import Chart, line_chart
from pipeline.reporting.model_summaries import ModelSummary


def losses(models: Sequence[ModelSummary]) -> Chart | None:
    """Training loss by images seen."""
    return line_chart({model.name: model.loss for model in models}, "images seen", "loss", log_y=True)


def levels(models: Sequence[ModelSummary]) -> Chart | None:
    """Error of held-out images by noise level, with the linear denoiser's for the first model's data."""
    lines = {model.name: [(row["log_snr"], row["held_out_mse"]) for row in model.levels] for model in models}
    lines["best linear denoiser"] = [(row["log_snr"], row["linear_denoiser_mse"]) for row in models[0].levels]
    return line_chart(lines, "log-SNR (left: noise, right: image)", "mean squared error", log_y=True)


def quality(models: Sequence[ModelSummary]) -> Chart | None:
    """KID by what an image costs, one line per model."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for model in models:
        for row in model.quality:
            lines.setdefault(model.name, []).append((float(row["num_rows"]), float(row["kid"])))
    return line_chart(lines, "rows of network calls per image", "KID")
