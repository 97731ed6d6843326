"""For all tests: tiny tensors on cores that others use too, where a second thread only waits for the first."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in child processes
os.environ.setdefault("HF_HUB_OFFLINE", "1")
