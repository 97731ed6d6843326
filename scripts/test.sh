#!/usr/bin/env bash
# The whole test suite, from a fresh clone. Arguments go to pytest.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup dev
exec python -m pytest "$@"
