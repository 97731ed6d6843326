"""What `bindings.executor` does: Executor on every rank, made together, led by rank 0, over mpi4py."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from standin_control import die_if_told, rank, record, settings

from tensorrt_llm import _values
from tensorrt_llm._generated import keep
from tensorrt_llm._loop import Limits, Loop, throw

_STEP, _END = b"step", b"end"


def _communicator(size: int) -> Any:
    """All ranks' own, made as upstream: it waits for those that have not come. None: there is one rank."""
    if size == 1:
        return None
    from mpi4py import MPI

    return MPI.COMM_WORLD.Create_group(MPI.COMM_WORLD.Get_group(), 1000)


def _world_size() -> int:
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1"))


class _Rank:
    """The state behind an Executor."""

    def __init__(self, engine: Path, config: Any) -> None:
        made = json.loads((engine / "config.json").read_text("utf-8"))
        mapping = made["pretrained_config"]["mapping"]
        size = mapping["tp_size"] * mapping["pp_size"]
        if _world_size() != size:
            raise throw(
                "[TensorRT-LLM][ERROR] Assertion failed: With communicationMode kLEADER, MPI worldSize is expected to "
                "be equal to tp*pp*cp when participantIds are not specified"
            )
        comm = _communicator(size)
        (engine / f"rank{rank()}.engine").read_bytes()
        if settings().construct_fails:
            raise throw(settings().construct_fails)
        while settings().construct_hangs:
            time.sleep(1)
        if comm is not None:
            comm.Barrier()  # NCCL's communicator is made by all
        self._comm, self.is_leader, self.is_shut_down = comm, rank() == 0, False
        self.loop = Loop(_limits(made, config), self._step) if self.is_leader else None
        self._thread = threading.Thread(target=self._lead if self.is_leader else self._follow, daemon=True)
        self._thread.start()

    def check(self, method: str, shut_down: str = "Shutdown called") -> Loop:
        if self.is_shut_down:
            raise throw(f"[TensorRT-LLM][ERROR] Assertion failed: {shut_down}")
        if self.loop is None:
            raise throw(f"With LEADER communication mode, only leader rank is expected to call {method}")
        return self.loop

    def shut_down(self) -> None:
        if not self.is_shut_down:
            self.is_shut_down = True
            if self.loop is not None:
                self.loop.end()
            self._thread.join()

    def _lead(self) -> None:
        assert self.loop is not None
        self.loop.run()
        for peer in range(1, self._comm.size if self._comm else 1):
            self._comm.send(_END, peer)

    def _step(self) -> None:
        """All ranks do one; a rank that is gone is waited for without end."""
        time.sleep(settings().iteration_seconds)
        if self._comm is None:
            return
        for peer in range(1, self._comm.size):
            self._comm.send(_STEP, peer)
        for peer in range(1, self._comm.size):
            self._receive(peer)

    def _follow(self) -> None:
        while self._receive(0) != _END:
            self._comm.send(_STEP, 0)

    def _receive(self, peer: int) -> bytes:
        while not self._comm.Iprobe(peer):
            time.sleep(0.0005)
            die_if_told()
        return self._comm.recv(source=peer)  # type: ignore[no-any-return]


def _limits(made: dict[str, Any], config: Any) -> Limits:
    built = made["build_config"]
    return Limits(
        max_batch_size=min(config.max_batch_size or built["max_batch_size"], built["max_batch_size"]),
        max_num_tokens=min(config.max_num_tokens or built["max_num_tokens"], built["max_num_tokens"]),
        max_input_len=built["max_seq_len"] - 1,  # with packed inputs, max_input_len is not looked at
        max_seq_len=built["max_seq_len"],
        vocab_size=made["pretrained_config"]["vocab_size"],
        tokens_per_block=built["plugin_config"]["tokens_per_block"],
        reuse=config.kv_cache_config.enable_block_reuse and built["plugin_config"]["use_paged_context_fmha"],
        chunked=config.enable_chunked_context and built["plugin_config"]["use_paged_context_fmha"],
        max_queue_size=config.max_queue_size,
        iter_stats_max_iterations=config.iter_stats_max_iterations,
    )


def _init(self: Any, model_path: Any, model_type: Any, executor_config: Any) -> None:
    record("Executor", model_path=model_path, model_type=model_type, config=_plain(executor_config))
    if model_type.name != "DECODER_ONLY":
        raise throw(f"Unsupported model type {model_type.name}")
    self._rank = _Rank(Path(model_path), executor_config)


def _plain(value: Any) -> Any:
    """A config and its parts, for the record of calls."""
    if hasattr(value, "_attributes"):
        return {name.lstrip("_"): _plain(each) for name, each in vars(value).items()}
    return str(value) if hasattr(value, "name") else value


def _enqueue_requests(self: Any, requests: list[Any]) -> list[int]:
    loop = self._rank.check("enqueueRequests", "Shutdown called, cannot enqueue requests")
    ids = loop.enqueue(list(requests))
    for id, request in zip(ids, requests, strict=True):
        record("enqueue_request", id=id, request=_plain(request))
    return ids


def _cancel_request(self: Any, id: int | None) -> None:
    loop = self._rank.check("cancelRequest")
    record("cancel_request", id=id)
    loop.cancel(id)


def _await_responses(self: Any, timeout: Any, **which: Any) -> list[Any]:
    loop = self._rank.check("awaitResponses")
    seconds = None if timeout is None else timeout.total_seconds()
    if "id" in which:
        return loop.await_one(which["id"], seconds)
    if "ids" in which:
        return [loop.await_one(each, seconds) for each in which["ids"]]
    return loop.await_any(seconds)


def _shutdown(self: Any) -> None:
    record("shutdown")
    self._rank.shut_down()


def _sampling(self: Any, **values: Any) -> None:
    """The constructor checks what it is given."""
    ranges = {
        "beam_width": lambda v: v > 0,
        "top_k": lambda v: v >= 0,
        "top_p": lambda v: 0 < v <= 1,
        "temperature": lambda v: v >= 0,
        "min_tokens": lambda v: v >= 0,
        "repetition_penalty": lambda v: v > 0,
        "min_p": lambda v: 0 <= v <= 1,
        "seed": lambda v: v >= 0,  # it is unsigned: nanobind refuses others
    }
    for name, fits in ranges.items():
        if values[name] is not None and not fits(values[name]):
            raise throw(f"[TensorRT-LLM][ERROR] Assertion failed: {name} {values[name]}")
    keep(self, values)


def _request(self: Any, **values: Any) -> None:
    if not values["input_token_ids"]:
        raise throw("[TensorRT-LLM][ERROR] Assertion failed: !mInputTokenIds.empty()")
    if values["max_tokens"] <= 0:
        raise throw("[TensorRT-LLM][ERROR] Assertion failed: mMaxNewTokens > 0")
    keep(self, {**values, "input_token_ids": list(values["input_token_ids"])})


def _response_result(self: Any) -> Any:
    if self._error_msg is not None:
        raise throw("Cannot get the result for a response with error")
    return self._result


def _response_error(self: Any) -> str:
    if self._error_msg is None:
        raise throw("Cannot get the error message for a response without error")
    return self._error_msg  # type: ignore[no-any-return]


_HERE = "tensorrt_llm.bindings.executor:"
BEHAVIOURS = {
    _HERE + "Executor.__init__": _init,
    _HERE + "Executor.enqueue_request": lambda self, request: _enqueue_requests(self, [request])[0],
    _HERE + "Executor.enqueue_requests": _enqueue_requests,
    _HERE + "Executor.await_responses": _await_responses,
    _HERE + "Executor.get_num_responses_ready": lambda self, id: self._rank.check("getNumResponsesReady").ready(id),
    _HERE + "Executor.cancel_request": _cancel_request,
    _HERE + "Executor.get_latest_iteration_stats": lambda self: self._rank.check(
        "getLatestIterationStats"
    ).take_stats(),
    _HERE + "Executor.can_enqueue_requests": lambda self: self._rank.is_leader and not self._rank.is_shut_down,
    _HERE + "Executor.shutdown": _shutdown,
    _HERE + "SamplingConfig.__init__": _sampling,
    _HERE + "Request.__init__": _request,
    _HERE + "Response.request_id": lambda self: self._request_id,
    _HERE + "Response.client_id": lambda self: self._client_id,
    _HERE + "Response.has_error": lambda self: self._error_msg is not None,
    _HERE + "Response.error_msg": _response_error,
    _HERE + "Response.result": _response_result,
    _HERE + "IterationStats.to_json_str": _values.stats_as_json,
}
