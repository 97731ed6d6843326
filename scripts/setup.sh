# Sourced by demo.sh and test.sh: makes .venv with Python 3.10+, and puts llmserve with the given extra into it.
# Nothing is done a second time while pyproject.toml and the CPU kernels stay as they are.
#
#   PYTHON=python3.12            which Python makes the environment
#   LLMSERVE_TORCH_INDEX=URL     a package index to take torch from, e.g. PyTorch's own index of CPU builds

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

setup() {
    local extra=$1 python=${PYTHON:-python3} stamp wanted
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "setup: $python is not Python 3.10 or newer; set PYTHON to one that is." >&2
        return 1
    fi
    if [ ! -x .venv/bin/pip ]; then
        echo "setup: making .venv"
        "$python" -m venv --clear .venv || {
            echo "setup: $python cannot make virtual environments; install its venv package (Debian: python3-venv)." >&2
            return 1
        }
    fi
    stamp=.venv/installed-$extra
    wanted=$(find pyproject.toml llmserve/ops/cpu -type f ! -name '*.pyc' | LC_ALL=C sort | xargs cat | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        # Asked for by version and before the rest, so that a build already at hand is taken and nothing replaces it.
        if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
            echo "setup: installing torch (a minute or more)"
            .venv/bin/pip install -q --disable-pip-version-check \
                ${LLMSERVE_TORCH_INDEX:+--index-url "$LLMSERVE_TORCH_INDEX"} torch==2.13.0
        fi
        echo "setup: installing llmserve[$extra] and compiling its CPU kernels (two minutes or more)"
        .venv/bin/pip install -q --disable-pip-version-check -e ".[$extra]"
        echo "$wanted" > "$stamp"
    fi
    PATH=$PWD/.venv/bin:$PATH
    # Open MPI refuses root and more ranks than cores unless told that both are meant.
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
}
