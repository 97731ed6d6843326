"""docs/metrics.md is what the registry says, and the registry is what /metrics says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .conftest import Front
from .fake_engine import wait_for

ROOT = Path(__file__).parents[2]


def test_the_page_of_metrics_is_up_to_date() -> None:
    script = ROOT / "scripts" / "list_metrics.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120)
    written = (ROOT / "docs" / "metrics.md").read_text()
    assert done.stdout == written, "run `python scripts/list_metrics.py > docs/metrics.md`"


def test_every_metric_that_is_served_is_on_the_page(front: Front) -> None:
    front.complete(max_tokens=3)
    wait_for(lambda: front.client.stats is not None)
    written = (ROOT / "docs" / "metrics.md").read_text()
    lines = front.http.get("/metrics").text.splitlines()
    # Prometheus' library adds the time at which each began, which is no metric of ours.
    names = {
        line.split()[2] for line in lines if line.startswith("# HELP") and not line.split()[2].endswith("_created")
    }
    assert len(names) > 20
    assert [name for name in names if f"| `{name}` |" not in written] == []
