"""The Kubernetes manifests: what the project promises of them. Kubernetes' own schemas: scripts/check_docker.sh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llmserve import __version__
from llmserve.config import ServerConfig
from tests.docker.files import DOCKER, MANIFESTS, documents, pod_specs

from scripts.container.recipe import read_stages  # isort: skip

each = pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.name)
CONTAINERS = [
    pytest.param(spec, container, id=f"{file.name}-{container['name']}")
    for file in MANIFESTS
    for spec in pod_specs(file)
    for container in (*spec.get("initContainers", []), *spec["containers"])
]
containers = pytest.mark.parametrize(("spec", "container"), CONTAINERS)


def group_and_schema() -> tuple[dict[str, Any], dict[str, Any]]:
    (group,) = (d for file in MANIFESTS for d in documents(file) if d["kind"] == "LeaderWorkerSet")
    return group, json.loads(Path(__file__).with_name("leaderworkerset.json").read_text())


def test_the_group_is_a_leader_worker_set() -> None:
    group, schema = group_and_schema()
    jsonschema.validate(group, schema)


def test_an_unknown_field_of_a_group_would_be_found() -> None:
    group, schema = group_and_schema()
    group["spec"]["leaderWorkerTemplate"]["sizes"] = 2
    with pytest.raises(jsonschema.ValidationError, match="sizes"):
        jsonschema.validate(group, schema)


@containers
def test_nobody_is_root(spec: dict[str, Any], container: dict[str, Any]) -> None:
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 10001  # the image's
    confined = container["securityContext"]
    assert not confined["allowPrivilegeEscalation"]
    assert confined["readOnlyRootFilesystem"]
    assert confined["capabilities"] == {"drop": ["ALL"]}


@containers
def test_mounts_are_volumes_and_something_is_writable(spec: dict[str, Any], container: dict[str, Any]) -> None:
    volumes = {volume["name"] for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) <= volumes
    assert "/tmp" in mounts  # the root is read-only, and the socket between front and engine is there


@containers
def test_images_are_this_versions(spec: dict[str, Any], container: dict[str, Any]) -> None:
    name, _, tag = container["image"].partition(":")
    version, _, target = tag.partition("-cpu")
    assert (name, version) == ("llmserve", __version__)
    stages = {stage.name for stage in read_stages(DOCKER / "Dockerfile.cpu", {})}
    assert target.removeprefix("-") in stages | {""}


@containers
def test_kernels_have_whole_cores(spec: dict[str, Any], container: dict[str, Any]) -> None:
    """The same requested as granted makes the pod Guaranteed; whole cores can then be its own."""
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert int(resources["limits"]["cpu"]) >= 1


@each
def test_claims_and_selectors_meet(file: Path) -> None:
    found = documents(file)
    claims = {d["metadata"]["name"] for d in found if d["kind"] == "PersistentVolumeClaim"}
    labels = []
    for document in found:
        if document["kind"] == "Deployment":
            labels.append(document["spec"]["template"]["metadata"]["labels"])
            assert document["spec"]["selector"]["matchLabels"] == labels[-1]
        if document["kind"] == "LeaderWorkerSet":
            labels.append(document["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["metadata"]["labels"])
    for spec in pod_specs(file):
        used = {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
        assert used == claims
    (service,) = (d for d in found if d["kind"] == "Service")
    assert any(service["spec"]["selector"].items() <= of_pod.items() for of_pod in labels)
    ports = {port["name"] for spec in pod_specs(file) for c in spec["containers"] for port in c["ports"]}
    assert all(port["targetPort"] in ports for port in service["spec"]["ports"])


@each
def test_stopping_has_time_for_running_requests(file: Path) -> None:
    for spec in pod_specs(file):
        (container,) = spec["containers"]
        wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
        if "llmserve" in container["args"] or container["args"][0] == "run":
            assert spec["terminationGracePeriodSeconds"] > wait + ServerConfig().shutdown_timeout
        else:  # a worker leaves after its leader
            assert spec["terminationGracePeriodSeconds"] > wait > 10 + ServerConfig().shutdown_timeout


def test_scripts_of_the_group_are_in_the_image() -> None:
    (stage,) = (s for s in read_stages(DOCKER / "Dockerfile.cpu", {}) if s.name == "hosts")
    copied = [i.flags()[1] for i in stage.instructions if i.name == "COPY"]
    there = {f"{words[-1]}{Path(source).name}" for words in copied for source in words[:-1] if words[-1].endswith("/")}
    for spec in pod_specs(DOCKER / "k8s" / "hosts.yaml"):
        (container,) = spec["containers"]
        assert container["args"][0] == "sh"
        assert container["args"][1] in there
