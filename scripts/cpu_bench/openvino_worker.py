"""OpenVINO GenAI as a worker (see cpu_bench.lines), in the environment where it is installed.

    python -m cpu_bench.openvino_worker MODEL_FOLDER VOCAB_SIZE THREADS

Continuous batching with paged attention, prefix caching off, everything else as it comes.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai

from cpu_bench.batch import BatchClock, make_prompts
from cpu_bench.lines import Commands, serve
from cpu_bench.machine import peak_memory

CACHE_GIGABYTES = 2


class OpenVino:
    def __init__(self, model: str, vocab_size: int, threads: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GIGABYTES
        scheduler.max_num_batched_tokens = 2048
        scheduler.max_num_seqs = 64
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = False
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._pipe = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", settings, {})
        self._vocab_size = vocab_size
        self._ids = itertools.count()

    def _settings(self, new: int) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = new
        config.ignore_eos = True
        config.do_sample = False
        config.set_eos_token_id(self._vocab_size - 1)
        return config

    def generate(self, batch: int, prompt: int, new: int) -> dict[str, float]:
        """As `ours.Ours.generate`."""
        prompts = make_prompts(batch, prompt, self._vocab_size, seed=next(self._ids))
        tensors = [openvino.Tensor(np.array([ids], np.int64)) for ids in prompts]
        left = dict.fromkeys(range(batch), new)
        clock = BatchClock(batch)
        handles = [self._pipe.add_request(next(self._ids), t, self._settings(new)) for t in tensors]
        while self._pipe.has_non_finished_requests():
            self._pipe.step()
            for sequence, handle in enumerate(handles):
                tokens = count_tokens(handle)
                left[sequence] -= tokens
                clock.note(sequence, tokens, left[sequence] <= 0)
            clock.step()
        return clock.rates()


def count_tokens(handle: Any) -> int:
    count = 0
    while handle.can_read():
        count += sum(len(output.generated_ids) for output in handle.read().values())
    return count


def load() -> tuple[dict[str, float], Commands]:
    started = time.perf_counter()
    peer = OpenVino(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    seconds = time.perf_counter() - started
    return {"load": seconds}, {"generate": peer.generate, "peak_memory": peak_memory}


if __name__ == "__main__":
    serve(load)
