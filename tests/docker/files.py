"""What is in docker/, parsed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # scripts/container, which reads Dockerfiles

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
MANIFESTS = sorted((DOCKER / "k8s").glob("*.yaml"))


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def pod_specs(file: Path) -> list[dict[str, Any]]:
    """Of every pod that a manifest makes."""
    specs = []
    for document in documents(file):
        if document["kind"] == "Deployment":
            specs.append(document["spec"]["template"]["spec"])
        if document["kind"] == "LeaderWorkerSet":
            group = document["spec"]["leaderWorkerTemplate"]
            specs += [group["leaderTemplate"]["spec"], group["workerTemplate"]["spec"]]
    return specs
