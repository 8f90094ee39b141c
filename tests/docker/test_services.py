"""The compose file and the Kubernetes manifests, as far as they can be checked without their images and a cluster."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests.support.command import ROOT

KUBERNETES = ROOT / "docker" / "kubernetes"
COMPOSE = ROOT / "docker" / "compose.yaml"
MODELS = {
    "ServiceAccount": "V1ServiceAccount",
    "Service": "V1Service",
    "Deployment": "V1Deployment",
    "NetworkPolicy": "V1NetworkPolicy",
    "PersistentVolumeClaim": "V1PersistentVolumeClaim",
}


def kustomization() -> dict[str, Any]:
    """The base itself."""
    base: dict[str, Any] = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    return base


def manifests() -> list[dict[str, Any]]:
    """Every object of the base."""
    files = [KUBERNETES / name for name in kustomization()["resources"]]
    return [item for file in files for item in yaml.safe_load_all(file.read_text())]


def pod_specs() -> Iterator[dict[str, Any]]:
    for item in manifests():
        if item["kind"] == "Deployment":
            yield item["spec"]["template"]["spec"]


def containers() -> Iterator[dict[str, Any]]:
    for spec in pod_specs():
        yield from (*spec["containers"], *spec.get("initContainers", []))


def test_the_base_names_every_file() -> None:
    """No manifest lies in the folder without being part of the base."""
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization()["resources"]) == files


@pytest.mark.parametrize("item", manifests(), ids=lambda item: f"{item['kind']} {item['metadata']['name']}")
def test_every_field_is_known_to_kubernetes(item: dict[str, Any]) -> None:
    """Read as Kubernetes' own model and written again, an object is the same: no name is misspelt, none is missing."""

    class Response:
        data = json.dumps(item)

    api = client.ApiClient()
    model = api.deserialize(Response(), MODELS[item["kind"]])
    assert api.sanitize_for_serialization(model) == item


def test_a_misspelt_field_is_noticed() -> None:
    """The check above can fail: it loses what the model does not know."""
    item = next(item for item in manifests() if item["kind"] == "Deployment")
    item["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    with pytest.raises(AssertionError):
        test_every_field_is_known_to_kubernetes(item)


def test_pods_are_confined() -> None:
    """No root, no writable root file system, no capabilities, no token, no service's names in the environment."""
    assert list(pod_specs())
    for spec in pod_specs():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
    for container in containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_containers_have_probes_resources_and_a_pinned_image() -> None:
    """Every container is watched and bounded, and its image has a tag that says which it is."""
    for container in containers():
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        for amounts in (container["resources"]["requests"], container["resources"]["limits"]):
            assert {"cpu", "memory"} <= amounts.keys()
        name, _, tag = container["image"].partition(":")
        assert tag not in {"", "latest"}
        assert {"name": name, "newTag": tag} in kustomization()["images"]


def test_secrets_are_references() -> None:
    """What looks like a secret comes from a Secret, in the environment and in the config map."""
    for container in containers():
        for variable in container["env"]:
            assert "secretKeyRef" in variable["valueFrom"], variable["name"]
    plain = [text.partition("=")[0] for made in kustomization()["configMapGenerator"] for text in made["literals"]]
    assert plain
    assert [name for name in plain if re.search("PASSWORD|SECRET|KEY|TOKEN", name)] == []


def test_selectors_find_the_pods() -> None:
    """Service, deployment and network policy speak of the same pods, and the port has the name that they use."""
    found = {item["kind"]: item for item in manifests()}
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    service, policy = found["Service"]["spec"], found["NetworkPolicy"]["spec"]
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        service["selector"],
        policy["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    ports = {port["name"] for container in containers() for port in container["ports"]}
    assert {port["targetPort"] for port in service["ports"]} <= ports
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} <= ports


def composed(*, secrets: bool, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """The compose file as the program reads it, with or without values for the secrets."""
    program = shutil.which("docker-compose")
    if program is None:
        if os.environ.get("THAWLINE_REQUIRE_ENGINE") == "1":
            pytest.fail("docker-compose is not installed (Debian: apt-get install docker-compose)")
        pytest.skip("docker-compose is not installed (Debian: apt-get install docker-compose)")
    values = tmp_path / "env"
    example = (ROOT / "docker" / ".env.example").read_text()
    values.write_text(re.sub(r"=$", "=a-value", example, flags=re.MULTILINE) if secrets else example)
    command = [program, "--env-file", str(values), "-f", str(COMPOSE), "config"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_compose_starts_nothing_without_secrets(tmp_path: Path) -> None:
    """A secret that the example file leaves empty is asked for by name; the file brings no default."""
    done = composed(secrets=False, tmp_path=tmp_path)
    assert done.returncode != 0
    assert "fill docker/.env" in done.stderr


def test_compose_starts_in_order_on_this_machine_only(tmp_path: Path) -> None:
    """Each service has a health check, MLflow waits for the others', and every port is bound to 127.0.0.1."""
    done = composed(secrets=True, tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services.keys() == {"postgres", "s3", "mlflow"}
    assert all("healthcheck" in service for service in services.values())
    waits = services["mlflow"]["depends_on"]
    assert {name: waits[name]["condition"] for name in waits} == dict.fromkeys(("postgres", "s3"), "service_healthy")
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)
    assert "-master.telemetry=false" in services["s3"]["command"]
    images = [service["image"].partition(":")[2] for service in services.values()]
    assert not {"", "latest"} & set(images)


def test_compose_takes_secrets_from_the_environment_only() -> None:
    """Every variable that holds a secret is a reference without a default, and the example file gives none a value."""
    text = COMPOSE.read_text()
    values = re.findall(r"^ +(\w*(?:PASSWORD|SECRET|ACCESS_KEY)\w*): (.+)$", text, re.MULTILINE)
    assert len(values) > 5
    assert [name for name, value in values if not re.fullmatch(r"\$\{\w+:\?fill docker/\.env\}", value)] == []
    example = (ROOT / "docker" / ".env.example").read_text()
    names = re.findall(r"\$\{(\w+):\?", text)
    assert set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) == set(names)
    assert "docker/.env" in (ROOT / ".gitignore").read_text().splitlines()
