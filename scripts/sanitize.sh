#!/usr/bin/env bash
# The kernel tests with the CPU kernels compiled under AddressSanitizer and UndefinedBehaviorSanitizer (gcc). Needs a
# C++ compiler and what scripts/test.sh installs. The first use takes minutes to compile. Arguments go to pytest.
#
#   LLMSERVE_SANITIZE_BUILD=DIR   where to compile (default: build/sanitize)
#
# Memory that a program gives out itself comes from mmap, where a sanitizer sees no bounds: tests allocate what kernels
# read and write, each array exactly as large as it may be, and pass addresses.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
if [ -n "${VIRTUAL_ENV:-}" ] && [ ! -x .venv/bin/pip ]; then
    PATH=$VIRTUAL_ENV/bin:$PATH # an environment that somebody has made and activated will do
else
    setup dev
fi

build=$(realpath -m "${LLMSERVE_SANITIZE_BUILD:-build/sanitize}")
mkdir -p "$build"
if [ ! -x "$build/tools/bin/cmake" ]; then
    python -m venv "$build/tools"
    "$build/tools/bin/pip" install -q --disable-pip-version-check "nanobind>=2.9,<4" cmake ninja
fi
PATH=$PATH:$build/tools/bin cmake -S llmserve/ops/cpu -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_CXX_COMPILER="${CXX:-g++}" -DCMAKE_CXX_FLAGS=-fno-sanitize-recover=all \
    -DLLMSERVE_SANITIZE=address,undefined -DPython_EXECUTABLE="$build/tools/bin/python" > "$build/configure.log" ||
    { cat "$build/configure.log"; exit 1; }
PATH=$PATH:$build/tools/bin cmake --build "$build"

# Every Python that a test starts takes this module for the installed one.
cat > "$build/sitecustomize.py" <<PYTHON
import glob, importlib.util, sys

class Sanitized:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "llmserve.ops.cpu.kernels":
            return importlib.util.spec_from_file_location(name, glob.glob("$build/kernels.*.so")[0])

sys.meta_path.insert(0, Sanitized)
PYTHON

# libstdc++ beside it, or the sanitizer does not find the function that throws.
preload=$("${CXX:-g++}" -print-file-name=libasan.so):$("${CXX:-g++}" -print-file-name=libstdc++.so)
export PYTHONPATH=$build${PYTHONPATH:+:$PYTHONPATH}
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
[ $# -gt 0 ] || set -- tests/numerics/test_{kernel_*,sampling_kernel,packing}.py tests/comm/test_team.py
# --capture=sys: a sanitizer reports to the process's own stderr and ends it.
exec env LD_PRELOAD="$preload" python -m pytest --capture=sys "$@"
