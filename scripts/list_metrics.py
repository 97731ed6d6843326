"""Write the page of metrics from the registry: `python scripts/list_metrics.py > docs/metrics.md`."""

from __future__ import annotations

from prometheus_client.core import Metric

from llmserve.engine.messages import Ready, Stats
from llmserve.server.engine_client import EngineClient
from llmserve.server.metrics import Metrics

HEAD = """\
# Metrics

`GET /metrics` in Prometheus' text format. Names are vLLM's with the prefix `llmserve_`, where they mean the same, so
that its dashboards need another prefix and no more. Every metric has the label `model_name`. Counters end in `_total`,
histograms have `_bucket`, `_sum` and `_count`. Those that the front itself counts have a gauge beside them that ends in
`_created` instead, the Unix time at which they began to count. A *request* is one choice of one prompt: a call with
`n: 3` is three. Times are as the front sees them: from the moment a request is admitted, until its token has come from
the engine (not until a slow client has read it). How long a request waited in the queue is not
exported.
This page is written by `scripts/list_metrics.py`.

| metric | kind | labels | meaning and unit |
|---|---|---|---|"""

SOME_STATS = Stats(1, 1, 0.5, 1, 2, 1, 1, 1)
SOME_ENGINE = Ready(1, 1, 1, 16, 1, "cpu")


def page() -> str:
    client = EngineClient("ipc://nowhere")
    client.stats, client.ready = SOME_STATS, SOME_ENGINE
    found = sorted(Metrics(client, "model").registry.collect(), key=lambda metric: metric.name)
    return "\n".join([HEAD, *map(_row, found)])


def _row(metric: Metric) -> str:
    name = metric.name + ("_total" if metric.type == "counter" else "")
    labels = {label for sample in metric.samples for label in sample.labels} - {"model_name", "le"}
    told = ", ".join(f"`{label}`" for label in sorted(labels))
    return f"| `{name}` | {metric.type} | {told} | {metric.documentation} |"


if __name__ == "__main__":
    print(page())
