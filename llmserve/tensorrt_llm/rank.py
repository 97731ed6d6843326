"""A rank of an engine of TensorRT-LLM, from its options to its end.

Before TensorRT-LLM first talks between ranks, where one that is missing or does not fit would leave the others waiting
for ever, everything that can be compared is compared: first the engine directory, before anything is imported; then,
with tensorrt_llm there, versions, GPUs and memory; then the shards' checksums. Each is an exchange of small texts.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmserve.checkpoint.engine_dir import TENSORRT_LLM, EngineDir, shard_names
from llmserve.comm.plan_line import Listener
from llmserve.config import EngineConfig, TensorRTLLMFacts
from llmserve.engine.launch import STOP_SIGNALS, allowed_cores
from llmserve.engine.link import FrontLink
from llmserve.engine.messages import Loading, Ready
from llmserve.engine.serve import EngineLoop
from llmserve.errors import EngineDeadError, EngineStartError, LlmserveError
from llmserve.request import Request, SamplingParams
from llmserve.tensorrt_llm import library
from llmserve.tensorrt_llm.device import use_gpu
from llmserve.tensorrt_llm.engine import Limits, TensorRTLLMEngine
from llmserve.tensorrt_llm.executor import batch_size, check_settings, make_executor
from llmserve.tensorrt_llm.facts import Facts, Place, compare_facts, compare_places, problem_of, read_facts, read_places
from llmserve.tensorrt_llm.ranks import Ranks, limited, send_home, wait_for_home
from llmserve.tensorrt_llm.requests import CAPABILITIES

if TYPE_CHECKING:
    from tensorrt_llm.bindings import executor as trtllm

log = logging.getLogger("llmserve.engine")

STALL_TIMEOUT = 8.0
"""Seconds without a step, while there is work, until the engine counts as hung. A step computes at most
max_num_tokens tokens, which takes a GPU a small part of that."""

LOAD_LIMIT = 1800.0
"""Seconds in which all ranks must have checked and loaded their shards."""

STOP_LIMIT = 30.0

BytesDone = Callable[[int], None]


def join_tensorrt_llm(engine: Path, config: EngineConfig) -> TensorRTLLMRank | None:
    """This process as a rank of the engine; None, said once, where the ranks' engines do not fit them."""
    ranks = Ranks()
    directory: EngineDir | None = None
    problem = digest = ""
    try:
        check_settings(config)
        directory = EngineDir.open(engine)
        directory.check_ranks(ranks.size)
        digest = hashlib.sha256(directory.manifest.model_dump_json().encode()).hexdigest()
    except LlmserveError as e:
        problem = str(e)
    place = Place(socket.gethostname(), digest, problem)
    try:
        problem = compare_places(read_places(ranks.gather(place.encode())))
    except EngineDeadError as e:
        log.error("%s", e)
        ranks.abort()
    if problem or directory is None:
        if ranks.index == 0:
            log.error("%s", problem)
        return None
    return TensorRTLLMRank(directory, config, ranks)


class TensorRTLLMRank:
    def __init__(self, directory: EngineDir, config: EngineConfig, ranks: Ranks) -> None:
        facts = directory.manifest.tensorrt_llm
        assert facts is not None
        self.index = ranks.index
        self._facts: TensorRTLLMFacts = facts
        self._directory = directory
        self._config = config
        self._ranks = ranks

    def lead(self, link: FrontLink, shutdown_timeout: float) -> None:
        """Rank 0's work, until it is told to stop."""
        link.send(Loading("comparing ranks", 0, 0))
        self._compare()
        total = sum(self._directory.manifest.files[name].size for name in self._files_to_verify())
        self._verify(lambda done: link.send(Loading("loading", done, total)))
        speaker = self._ranks.line()
        assert not isinstance(speaker, Listener)
        started = time.monotonic()
        manifest, config, facts = self._directory.manifest, self._config, self._facts
        limits = Limits(
            max_model_len=min(facts.max_seq_len, config.max_model_len or facts.max_seq_len),
            max_num_seqs=batch_size(facts, config),
            tokens_per_block=facts.tokens_per_block,
            vocab_size=manifest.model.vocab_size,
            eos_token_ids=manifest.generation.eos_token_ids,
        )
        with limited("TensorRT-LLM did not come up on all ranks", LOAD_LIMIT):
            executor = self._executor()
            engine = TensorRTLLMEngine(
                executor, limits, link.wake, speaker=speaker, stall_timeout=config.stall_timeout or STALL_TIMEOUT
            )
            warm_up(engine)
        log.info(
            "ready after %.1f s: TensorRT-LLM %s, %d rank(s) on %s; KV cache of %d tokens in blocks of %d, at most %d "
            "tokens a sequence, %d sequences at once",
            time.monotonic() - started, facts.version, manifest.tp_size, facts.gpu, engine.kv_cache_tokens,
            facts.tokens_per_block, limits.max_model_len, limits.max_num_seqs,
        )  # fmt: skip
        EngineLoop(engine, link, shutdown_timeout).run(
            Ready(
                max_model_len=limits.max_model_len,
                max_num_seqs=limits.max_num_seqs,
                kv_cache_tokens=engine.kv_cache_tokens,
                block_size=facts.tokens_per_block,
                tp_size=manifest.tp_size,
                device=manifest.device,
                capabilities=CAPABILITIES,
            )
        )
        engine.close()
        with limited("TensorRT-LLM did not shut down", STOP_LIMIT):
            if speaker is not None:
                send_home(speaker)
            executor.shutdown()

    def follow(self) -> None:
        """Every other rank's work. Signals are rank 0's to answer: it sends the others home."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self._compare()
        self._verify(lambda done: None)
        listener = self._ranks.line()
        assert isinstance(listener, Listener)
        with limited("TensorRT-LLM did not come up on all ranks", LOAD_LIMIT):
            executor = self._executor()
        wait_for_home(listener)
        with limited("TensorRT-LLM did not shut down", STOP_LIMIT):
            executor.shutdown()  # of a rank that does not lead, this waits for the one that does

    def abort(self) -> None:
        """End every rank at once. Does not return."""
        self._ranks.abort()

    def _executor(self) -> trtllm.Executor:
        """EngineDeadError where this rank's cannot be made: the others are then left waiting, and have to be ended."""
        try:
            return make_executor(self._directory.path / TENSORRT_LLM, self._facts, self._config)
        except Exception as e:
            raise EngineDeadError(f"TensorRT-LLM could not load rank {self.index}: {library.first_line(e)}.") from e

    def _compare(self) -> None:
        """EngineStartError, the same on all ranks, unless all have what the engine needs."""
        host = socket.gethostname()
        try:
            version, gpu = library.load(), use_gpu(self._ranks.local_index)
            facts = Facts(host, version, library.tensorrt_version(), gpu)
        except LlmserveError as e:
            facts = Facts(host, problem=str(e))
        manifest = self._directory.manifest
        sizes = [manifest.files[name].size for name in shard_names(manifest)]
        if problem := compare_facts(read_facts(self._ranks.gather(facts.encode())), self._facts, sizes):
            raise EngineStartError(problem)

    def _verify(self, progress: BytesDone) -> None:
        """EngineStartError, the same on all ranks, where a file was altered."""
        problem = ""
        try:
            threads = max(1, len(allowed_cores()) // self._ranks.size)  # all ranks of a host do this at once
            self._directory.verify(self._files_to_verify(), progress, threads=threads)
        except LlmserveError as e:
            problem = str(e)
        if problem := problem_of(self._ranks.gather(problem, LOAD_LIMIT)):
            raise EngineStartError(problem)

    def _files_to_verify(self) -> list[str]:
        """This rank's shard, unless that is not wanted; and for rank 0 all that is small."""
        manifest = self._directory.manifest
        shards = shard_names(manifest)
        small = [name for name in manifest.files if name not in shards] if self.index == 0 else []
        return small + ([shards[self.index]] if self._config.verify else [])


def warm_up(engine: TensorRTLLMEngine) -> None:
    """One token, computed by all ranks, before anybody is told that they can. EngineDeadError where none comes."""
    engine.submit(Request(-1, (0,), SamplingParams(max_tokens=1, temperature=0)))
    while engine.has_work:
        for event in engine.step():
            if event.error is not None:
                raise EngineDeadError(event.error)
        time.sleep(0.005)
    patience = time.monotonic() + 2
    while not engine.kv_cache_tokens and time.monotonic() < patience:
        time.sleep(0.01)
