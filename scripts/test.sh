#!/usr/bin/env bash
# The whole test suite, from a fresh clone. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup dev
[ $# -eq 0 ] || exec python -m pytest "$@"

# Most tests are one thread's work and go over the cores, a process each. Those that start servers and ranks have them to
# themselves: ranks that wait for one another spin.
failed=0
OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 8 --dist loadfile --ignore tests/e2e || failed=$?
python -m pytest tests/e2e || failed=$?
exit $failed
