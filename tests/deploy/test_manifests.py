"""The manifests of deploy/ name what exists: files, services, labels, ports. `make check` holds them to their schemas."""

import re
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

from pipeline.environment import VARIABLES
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


def test_the_autoscaler_of_keda_does_what_that_of_kubernetes_does() -> None:
    keda = yaml.safe_load((DEPLOY / "keda.yaml").read_text())["spec"]
    scaler = MANIFESTS["HorizontalPodAutoscaler", "diffusion-foundry"]["spec"]
    assert keda["scaleTargetRef"]["name"] == scaler["scaleTargetRef"]["name"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (scaler["minReplicas"], scaler["maxReplicas"])
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == scaler["behavior"]
    [trigger], [pods] = keda["triggers"], [metric["pods"] for metric in scaler["metrics"]]
    assert trigger["metadata"]["query"] == f"sum({pods['metric']['name']})"
    assert trigger["metadata"]["threshold"] == pods["target"]["averageValue"]


def test_the_train_job_has_kubeflows_schema_and_nothing_that_it_does_not_know() -> None:
    job = yaml.safe_load((DEPLOY / "trainjob.yaml").read_text())
    # Its models drop keys that they do not know.
    assert TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job


def test_the_train_job_trains_as_dvc_does_on_the_volume_of_the_job() -> None:
    job = yaml.safe_load((DEPLOY / "trainjob.yaml").read_text())["spec"]
    volume, other = yaml.safe_load_all((DEPLOY / "kubernetes-training.yaml").read_text())
    [container] = other["spec"]["template"]["spec"]["containers"]
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["train"]["cmd"].split("${python} ")[1]
    assert f"torchrun {stage}" in job["trainer"]["command"][-1]
    assert job["trainer"]["image"] == container["image"]
    [patch] = job["runtimePatches"]
    [replicated] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"]
    assert pod["containers"][0]["volumeMounts"] == container["volumeMounts"]
    assert pod["securityContext"].items() <= other["spec"]["template"]["spec"]["securityContext"].items()


def test_every_target_of_make_and_every_variable_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    of_nginx = set(re.findall(r"\$\{(\w+)\}", (DEPLOY / "nginx.conf.template").read_text()))
    called = {}
    for file in (each for each in DEPLOY.iterdir() if each.is_file()):
        commands = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
        called[file.name] = {
            target for line in commands for target in re.findall(r"(?:^|: )\s*make (?:--\S+ )*([a-z-]+)", line)
        }
        assert called[file.name] <= targets, file
        assert set(re.findall(r"\bFOUNDRY_\w+", "\n".join(commands))) <= VARIABLES | of_nginx, file
    for name in ("sky.yaml", "slurm", "kubernetes-training.yaml"):
        assert {"retrain", "push"} <= called[name]


def test_what_was_not_tried_says_so() -> None:
    for name in ("keda.yaml", "sky.yaml", "slurm"):
        assert "Not tried: neither run nor checked" in (DEPLOY / name).read_text()
    for name in ("compose.yaml", "tracking.yaml", "kubernetes.yaml", "kubernetes-training.yaml", "trainjob.yaml"):
        assert re.search(r"Checked against the schemas? of \w+ and not run", (DEPLOY / name).read_text()), name
