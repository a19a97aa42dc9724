"""The manifests of deploy/ name what exists: files, services, labels, ports. `make check` holds them to their schemas."""

import re
from typing import Any

import pytest
import yaml

from tests.deploy.environment import ROOT

DEPLOY = ROOT / "deploy"
MANIFESTS = {
    (each["kind"], each["metadata"]["name"]): each
    for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
}


def compose(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return document


@pytest.mark.parametrize("name", ["compose.yaml", "tracking.yaml"])
def test_compose_mounts_files_and_volumes_that_exist(name: str) -> None:
    document = compose(name)
    for service in document["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file(), source
            elif not source.startswith("${"):
                assert source in document["volumes"]


def test_nginx_gets_each_variable_of_its_template() -> None:
    wanted = set(re.findall(r"\$\{(\w+)\}", (DEPLOY / "nginx.conf.template").read_text()))
    # Its image finds this one itself, where it is asked to.
    given = {"NGINX_ENTRYPOINT_LOCAL_RESOLVERS": "NGINX_LOCAL_RESOLVERS"}
    proxy = MANIFESTS["Deployment", "diffusion-foundry-proxy"]["spec"]["template"]["spec"]["containers"][0]
    for names in (compose("compose.yaml")["services"]["proxy"]["environment"], [each["name"] for each in proxy["env"]]):
        assert wanted <= {given.get(name, name) for name in names}


def test_selectors_and_ports_of_kubernetes_fit_the_pods() -> None:
    templates = {
        each["spec"]["template"]["metadata"]["labels"]["app"]: each["spec"]["template"]
        for (kind, _), each in MANIFESTS.items()
        if kind == "Deployment"
    }
    for (kind, name), each in MANIFESTS.items():
        spec = each["spec"]
        if kind == "Service":
            [container] = templates[spec["selector"]["app"]]["spec"]["containers"]
            assert {port["targetPort"] for port in spec["ports"]} <= {port["name"] for port in container["ports"]}
        elif kind in {"PodDisruptionBudget", "Deployment"}:
            assert spec["selector"]["matchLabels"]["app"] == name
            assert name in templates
    policy = MANIFESTS["NetworkPolicy", "diffusion-foundry"]["spec"]
    assert policy["podSelector"]["matchLabels"]["app"] in templates
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app"] in templates
    scaled = MANIFESTS["HorizontalPodAutoscaler", "diffusion-foundry"]["spec"]
    target = MANIFESTS["Deployment", scaled["scaleTargetRef"]["name"]]
    # Else each `kubectl apply` would set the number back.
    assert "replicas" not in target["spec"]
    assert scaled["minReplicas"] > MANIFESTS["PodDisruptionBudget", "diffusion-foundry"]["spec"]["minAvailable"]


def test_what_was_not_tried_says_so() -> None:
    for name in ("sky.yaml", "slurm"):
        assert "Not tried: neither run nor checked" in (DEPLOY / name).read_text()
    for name in ("compose.yaml", "tracking.yaml", "kubernetes.yaml", "kubernetes-training.yaml"):
        assert re.search(r"Checked against the schemas? of \w+ and not run", (DEPLOY / name).read_text()), name
