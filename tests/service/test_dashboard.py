"""The dashboard, and the autoscaler, ask for metrics that a service has."""

import json
import re

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.service.server import ROOT, Server


def metrics_of(server: Server) -> dict[str, set[str]]:
    """The labels of each metric of a service."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(server.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_panel_asks_for_metrics_and_labels_of_the_service(server: Server) -> None:
    found = metrics_of(server)
    panels = json.loads((ROOT / "deploy" / "grafana" / "engine.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) > len(panels) > 10
    for expression in expressions:
        names = re.findall(r"\b(?:foundry|process)_\w+", expression)
        assert names
        assert set(names) <= set(found), expression
        labels = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        # Prometheus adds the instance.
        assert labels <= {"instance"} | {label for name in names for label in found[name]}, expression


def test_the_autoscalers_metric_is_one_of_the_service(server: Server) -> None:
    manifests = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    [scaler] = [each for each in manifests if each["kind"] == "HorizontalPodAutoscaler"]
    assert {each["pods"]["metric"]["name"] for each in scaler["spec"]["metrics"]} <= set(metrics_of(server))
