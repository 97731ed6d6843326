"""Write Grafana's board: `python scripts/grafana_board.py > docker/grafana/boards/llmserve.json`.

What it shows is the list PANELS; what the metrics mean says docs/metrics.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

SERVERS = 'model_name=~"$model", instance=~"$instance"'
PER_SECOND = "$__rate_interval"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}  # docker/grafana/provisioning/datasources
COLUMNS = 24
HEIGHT = 8


@dataclass(frozen=True)
class Panel:
    """`queries`: what a line is called (with {{label}} of its labels) → its expression, over all servers chosen."""

    title: str
    unit: str  # one of Grafana's: short, s, percentunit, reqps, …
    queries: dict[str, str]
    kind: str = "timeseries"
    width: int = COLUMNS // 2
    height: int = HEIGHT


def total(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ''}({metric}{{{SERVERS}}})"


def rate(counter: str, by: str = "") -> str:
    return f"sum{f' by ({by}) ' if by else ''}(rate({counter}{{{SERVERS}}}[{PER_SECOND}]))"


def quantiles(histogram: str) -> dict[str, str]:
    buckets = rate(f"{histogram}_bucket", "le")
    return {f"p{q}": f"histogram_quantile({q / 100:g}, {buckets})" for q in (50, 90, 99)}


def mean(histogram: str) -> str:
    return f"{rate(f'{histogram}_sum')} / {rate(f'{histogram}_count')}"


def figure(title: str, unit: str, expression: str) -> Panel:
    return Panel(title, unit, {title: expression}, "stat", COLUMNS // 4, HEIGHT // 2)


PANELS = (
    figure("Output tokens per second", "short", rate("llmserve_generation_tokens_total")),
    figure("Requests running", "short", total("llmserve_num_requests_running")),
    figure("KV cache, tokens", "short", total("llmserve_kv_cache_tokens")),
    figure("Longest request, tokens", "short", f"min(llmserve_max_model_len{{{SERVERS}}})"),
    Panel(
        "Requests in the server",
        "short",
        {
            "running": total("llmserve_num_requests_running"),
            "waiting": total("llmserve_num_requests_waiting"),
            "can run at once": total("llmserve_max_num_seqs"),
        },
    ),
    Panel(
        "Tokens per second",
        "short",
        {
            "output": rate("llmserve_generation_tokens_total"),
            "prompt": rate("llmserve_prompt_tokens_total"),
            "of these from the prefix cache": rate("llmserve_prompt_tokens_cached_total"),
        },
    ),
    Panel("Time to first token", "s", quantiles("llmserve_time_to_first_token_seconds")),
    Panel("Time between two tokens", "s", quantiles("llmserve_inter_token_latency_seconds")),
    Panel("Time of a whole request", "s", quantiles("llmserve_e2e_request_latency_seconds")),
    Panel(
        "Time per output token, and from a request's first to its last",
        "s",
        {
            "mean per token": mean("llmserve_request_time_per_output_token_seconds"),
            "mean first to last": mean("llmserve_request_decode_time_seconds"),
        },
    ),
    Panel(
        "KV cache in use",
        "percentunit",
        {"{{instance}}": f"llmserve_kv_cache_usage_perc{{{SERVERS}}}"},
    ),
    Panel(
        "Prompt tokens found in the prefix cache",
        "percentunit",
        {
            "lately": f"{rate('llmserve_prefix_cache_hits_total')} / {rate('llmserve_prefix_cache_queries_total')}",
            "since start, {{instance}}": f"llmserve_prefix_cache_hit_rate{{{SERVERS}}}",
        },
    ),
    Panel(
        "Requests ended and refused per second",
        "reqps",
        {
            "{{finished_reason}}": rate("llmserve_request_success_total", "finished_reason"),
            "refused: {{reason}}": rate("llmserve_request_refused_total", "reason"),
        },
    ),
    Panel("Preemptions per second", "short", {"preemptions": rate("llmserve_num_preemptions_total")}),
    Panel("Engine steps per second", "short", {"steps": rate("llmserve_engine_steps_total")}),
    Panel(
        "Tokens computed per step",
        "short",
        {"mean": f"{rate('llmserve_scheduled_tokens_total')} / {rate('llmserve_engine_steps_total')}"},
    ),
    Panel("Prompt tokens of a request", "short", quantiles("llmserve_request_prompt_tokens")),
    Panel("Output tokens of a request", "short", quantiles("llmserve_request_generation_tokens")),
    Panel(
        "What a request may generate, and choices per prompt",
        "short",
        {
            "mean max_tokens": mean("llmserve_request_params_max_tokens"),
            "mean n": mean("llmserve_request_params_n"),
        },
    ),
)


def board() -> dict[str, Any]:
    return {
        "uid": "llmserve",
        "title": "llmserve",
        "schemaVersion": 39,
        "editable": False,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "templating": {"list": [_variable("model", "model_name"), _variable("instance", "instance")]},
        "panels": _placed(),
    }


def _variable(name: str, label: str) -> dict[str, Any]:
    """A menu over the values of a label; all of them at first."""
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values(llmserve_max_num_seqs, {label})", "refId": name},
        "refresh": 2,  # whenever the time range changes
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _placed() -> list[dict[str, Any]]:
    """The panels in reading order, as many beside each other as fit."""
    out: list[dict[str, Any]] = []
    x = y = 0
    tallest = 0
    for panel in PANELS:
        if x + panel.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        out.append(_panel(panel, len(out) + 1, {"x": x, "y": y, "w": panel.width, "h": panel.height}))
        x, tallest = x + panel.width, max(tallest, panel.height)
    return out


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "title": panel.title,
        "type": panel.kind,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": expression, "legendFormat": name}
            for i, (name, expression) in enumerate(panel.queries.items())
        ],
    }


if __name__ == "__main__":
    print(json.dumps(board(), indent=1))
