"""docker/k8s by Kubernetes' own schemas, in which an unknown field is an error: `python scripts/check_manifests.py`.

Needs kubernetes-validate and PyYAML (scripts/check_docker.sh installs them). Of a LeaderWorkerSet, which is no kind of
Kubernetes itself, it checks the pods; the rest is in tests/docker. Exit code 1 if one is not valid.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

FOLDER = Path(__file__).resolve().parents[1] / "docker" / "k8s"
VERSION = "1.33"


def checkable(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The document itself, or the pods that it makes."""
    if document["kind"] != "LeaderWorkerSet":
        yield document
        return
    group = document["spec"]["leaderWorkerTemplate"]
    for template in (group["leaderTemplate"], group["workerTemplate"]):
        metadata = {"name": "x"} | template["metadata"]
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def main() -> int:
    code = 0
    for file in sorted(FOLDER.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            for part in checkable(document):
                try:
                    kubernetes_validate.validate(part, VERSION, strict=True)
                    print(f"ok       {file.name}: {document['kind']} ({part['kind']}, Kubernetes {VERSION})")
                except kubernetes_validate.ValidationError as e:
                    code = 1
                    print(f"PROBLEM  {file.name}: {document['kind']}: {e.message}")
    return code


if __name__ == "__main__":
    sys.exit(main())
