"""compose.yaml: what the project promises of it. Whether it is a compose file at all, scripts/check_docker.sh asks."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from llmserve import __version__
from tests.docker.files import DOCKER

from scripts.container.recipe import read_stages  # isort: skip

TEXT = (DOCKER / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
each = pytest.mark.parametrize("name", SERVICES)


@each
def test_an_image_has_one_version(name: str) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", SERVICES[name]["image"]), SERVICES[name]["image"]


@each
def test_nobody_is_root(name: str) -> None:
    service = SERVICES[name]
    assert int(service["user"].split(":")[0]) > 0
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@each
def test_ports_are_this_machines_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@each
def test_what_stays_is_watched(name: str) -> None:
    assert "healthcheck" in SERVICES[name] or SERVICES[name]["restart"] == "no"


@each
def test_what_it_mounts_is_there(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source = mount.split(":")[0]
        assert (DOCKER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], mount
    for other in SERVICES[name].get("depends_on", {}):
        assert other in SERVICES


def test_the_server_is_the_image_of_this_version() -> None:
    assert SERVICES["server"]["image"] == f"llmserve:{__version__}-cpu"
    build = SERVICES["build-engine"]["build"]
    dockerfile = DOCKER / build["context"] / build["dockerfile"]
    assert build["target"] in {stage.name for stage in read_stages(dockerfile, {})}
    for argument in build["args"]:
        assert re.search(rf"^ARG {argument}\b", dockerfile.read_text(), re.M)


def test_the_healthcheck_is_the_images() -> None:
    (stage,) = (s for s in read_stages(DOCKER / "Dockerfile.cpu", {}) if s.name == "server")
    (check,) = (i.text for i in stage.instructions if i.name == "HEALTHCHECK")
    words = SERVICES["server"]["healthcheck"]["test"]
    assert words[0] == "CMD"
    for word in words[1:]:
        assert word in check


def test_stopping_has_time_for_running_requests() -> None:
    from llmserve.config import ServerConfig

    assert int(SERVICES["server"]["stop_grace_period"].removesuffix("s")) > ServerConfig().shutdown_timeout
