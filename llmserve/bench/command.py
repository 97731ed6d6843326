"""`llmserve bench` from checked settings to what is shown and written; what is measured and how is elsewhere."""

from __future__ import annotations

import asyncio
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from llmserve.bench.environment import machine, versions
from llmserve.bench.output import check_outputs, need_package, write_json
from llmserve.bench.progress import BenchProgress
from llmserve.bench.settings import OfflineSettings, ServeSettings
from llmserve.config import EngineConfig, Manifest
from llmserve.errors import EngineDirError, LlmserveError


def bench_engine(
    engine: Path, config: EngineConfig, settings: OfflineSettings, *, json_file: Path | None, plot: Path | None
) -> None:
    check_outputs(json_file, plot)
    manifest = Manifest.read(engine)
    if manifest.tp_size != 1 or manifest.executor != "native":
        what = f"is for {manifest.tp_size} ranks" if manifest.executor == "native" else f"is one of {manifest.executor}"
        raise EngineDirError(
            f"{engine} {what} and only a native engine of one can be measured in this process; serve it "
            f"with `llmserve run {engine}` and measure the server with `llmserve bench --serve URL`."
        )
    # Only now: loading torch takes seconds.
    from llmserve.bench.offline import Bench, Limits, make_plan, run_plan
    from llmserve.bench.offline_report import print_offline
    from llmserve.engine.offline import OfflineEngine

    started = _now()
    offline = OfflineEngine(engine, config)
    kv = offline.engine.kv
    limits = Limits(manifest.model.vocab_size, kv.max_model_len, config.max_num_seqs, kv.num_tokens, kv.block_size)
    plan = make_plan(settings, limits)
    with BenchProgress(plan.work(settings.repeats)) as progress:
        bench = Bench(offline, limits.vocab_size, settings.seed)
        result = run_plan(bench, plan, settings.repeats, progress)
    name = f"{manifest.model_name} {manifest.quant} {manifest.dtype}"
    print_offline(result, name)
    if json_file is not None:
        described = manifest.model_dump(mode="json", exclude={"files"})
        results = {
            "single": [row.as_json() for row in result.single],
            "batches": [row.as_json() for row in result.batches],
            "notes": result.notes,
        }
        configuration = {"bench": settings.model_dump(), "engine": config.model_dump(), "path": str(engine)}
        write_json(json_file, _header("offline", started, configuration) | {"engine": described, "results": results})
    if plot is not None:
        from llmserve.bench.plots import plot_offline

        plot_offline(result, name, plot)


def bench_server(settings: ServeSettings, *, json_file: Path | None, plot: Path | None) -> None:
    """LlmserveError, after all is shown and written, where not one request succeeded."""
    check_outputs(json_file, plot)
    need_package("httpx", "--serve")
    from llmserve.bench.serve import load_of, run_load
    from llmserve.bench.serve_report import serving_block

    started = _now()
    load = load_of(settings, settings.num_prompts, settings.seed)
    with BenchProgress(sum(asked.output_len for asked in load)) as progress:
        result = asyncio.run(run_load(settings, load, progress))
    print(serving_block(result, settings))
    if json_file is not None:
        configuration = settings.model_dump()
        if math.isinf(settings.request_rate):
            configuration["request_rate"] = "inf"  # JSON has no infinity
        data = _header("serve", started, configuration) | {
            "model": result.model,
            "results": result.figures() | {"first_error": result.first_error},
            "samples": [sample.as_json() for sample in result.samples],
        }
        write_json(json_file, data)
    if not result.successful:
        raise LlmserveError(f"none of the {len(result.samples)} requests succeeded; the first: {result.first_error}")
    if plot is not None:
        from llmserve.bench.plots import plot_serve

        plot_serve(result, f"{result.model} at {settings.url}", plot)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _header(kind: str, started: str, configuration: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": kind,
        "started": started,
        "versions": versions(("torch", "numpy", "httpx")),
        "machine": machine(),
        "config": configuration,
    }
