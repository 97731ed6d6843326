"""The C++ executor: it batches, keeps the KV cache and talks to the other ranks itself. Through nanobind since 1.0.

nanobind refuses a call whose names or types do not bind with TypeError; what the C++ throws is RuntimeError, its text
followed by file, line and a stack.

Source: cpp/tensorrt_llm/nanobind/executor/{bindings,executor,executorConfig,request}.cpp, main 1.1..1.2 [H]
"""

import datetime
import enum
from collections.abc import Sequence
from os import PathLike
from typing import overload

class ModelType(enum.Enum):
    DECODER_ONLY = 0
    ENCODER_ONLY = 1
    ENCODER_DECODER = 2

class BatchingType(enum.Enum):
    STATIC = 0
    INFLIGHT = 1

class CapacitySchedulerPolicy(enum.Enum):
    MAX_UTILIZATION = 0
    GUARANTEED_NO_EVICT = 1
    STATIC_BATCH = 2

class ContextChunkingPolicy(enum.Enum):
    FIRST_COME_FIRST_SERVED = 0
    EQUAL_PROGRESS = 1

class CommunicationType(enum.Enum):
    MPI = 0

class CommunicationMode(enum.Enum):
    LEADER = 0
    ORCHESTRATOR = 1

class FinishReason(enum.Enum):
    """Source: cpp/include/tensorrt_llm/executor/types.h, main 1.1..1.2 [M]"""

    NOT_FINISHED = 0
    END_ID = 1
    STOP_WORDS = 2
    LENGTH = 3
    TIMED_OUT = 4
    CANCELLED = 5

class SchedulerConfig:
    def __init__(
        self,
        *,
        capacity_scheduler_policy: CapacitySchedulerPolicy = CapacitySchedulerPolicy.GUARANTEED_NO_EVICT,
        context_chunking_policy: ContextChunkingPolicy | None = None,
    ) -> None: ...
    @property
    def capacity_scheduler_policy(self) -> CapacitySchedulerPolicy: ...

class KvCacheConfig:
    """Give everything by keyword: main has lost parameters in between after 1.2.

    Of `max_tokens`, `free_gpu_memory_fraction` (unset: 0.9 of what is free once the weights are loaded) and
    `max_gpu_total_bytes` the smallest wins.
    """

    def __init__(
        self,
        *,
        enable_block_reuse: bool = True,
        max_tokens: int | None = None,
        free_gpu_memory_fraction: float | None = None,
        host_cache_size: int | None = None,
        max_gpu_total_bytes: int = 0,
    ) -> None: ...
    enable_block_reuse: bool
    max_tokens: int | None
    free_gpu_memory_fraction: float | None
    host_cache_size: int | None

class ParallelConfig:
    """Left out of ExecutorConfig it is LEADER over all ranks of MPI_COMM_WORLD, which has to be tp*pp*cp of them."""

    def __init__(
        self,
        *,
        communication_type: CommunicationType = CommunicationType.MPI,
        communication_mode: CommunicationMode = CommunicationMode.LEADER,
        device_ids: Sequence[int] | None = None,
        participant_ids: Sequence[int] | None = None,
    ) -> None: ...
    communication_mode: CommunicationMode
    device_ids: Sequence[int] | None
    participant_ids: Sequence[int] | None

class ExecutorConfig:
    """29 parameters upstream, some renamed in their places: give them by keyword.

    Source: cpp/tensorrt_llm/nanobind/executor/executorConfig.cpp, main 1.1..1.2 [H]; the numbers behind the named
    defaults: cpp/include/tensorrt_llm/executor/executor.h [H]
    """

    def __init__(
        self,
        *,
        max_beam_width: int = 1,
        scheduler_config: SchedulerConfig = SchedulerConfig(),
        kv_cache_config: KvCacheConfig = KvCacheConfig(),
        enable_chunked_context: bool = False,
        normalize_log_probs: bool = True,
        iter_stats_max_iterations: int = 1000,
        batching_type: BatchingType = BatchingType.INFLIGHT,
        max_batch_size: int | None = None,
        max_num_tokens: int | None = None,
        parallel_config: ParallelConfig | None = None,
        max_queue_size: int | None = None,
    ) -> None: ...
    max_beam_width: int
    scheduler_config: SchedulerConfig
    kv_cache_config: KvCacheConfig
    enable_chunked_context: bool
    iter_stats_max_iterations: int
    max_batch_size: int | None
    max_num_tokens: int | None
    parallel_config: ParallelConfig | None
    max_queue_size: int | None

class SamplingConfig:
    """With neither `top_k` nor `top_p` the most likely token is taken, whatever the temperature.

    The constructor throws at values out of range: top_p has to be in (0, 1], temperature not below 0, and so on.

    Source: cpp/tensorrt_llm/nanobind/executor/request.cpp, main 1.1..1.2 [H]; the ranges:
    cpp/tensorrt_llm/executor/samplingConfig.cpp [H]; greedy: cpp/tensorrt_llm/layers/samplingLayer.cpp [L]
    """

    def __init__(
        self,
        beam_width: int = 1,
        *,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        min_tokens: int | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        min_p: float | None = None,
    ) -> None: ...
    beam_width: int
    top_k: int | None
    top_p: float | None
    seed: int | None
    temperature: float | None
    min_tokens: int | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    min_p: float | None

class OutputConfig:
    """The defaults mean False; main has them as None, 1.0 as False."""

    def __init__(
        self,
        *,
        return_log_probs: bool | None = None,
        exclude_input_from_output: bool | None = None,
        return_perf_metrics: bool | None = None,
    ) -> None: ...
    return_log_probs: bool
    exclude_input_from_output: bool
    return_perf_metrics: bool

class Request:
    """Throws where the prompt is empty or `max_tokens` is not above 0.

    `stop_words` and `bad_words` are lists of lists of token ids. `max_tokens` is cut to what max_seq_len leaves.

    Only requests of one `cache_salt_id` share KV blocks.

    Source: cpp/tensorrt_llm/nanobind/executor/request.cpp, main 1.1..1.2 [H]; cutting and checks:
    cpp/tensorrt_llm/batch_manager/llmRequest.cpp, validate [H]
    """

    def __init__(
        self,
        input_token_ids: Sequence[int],
        max_tokens: int,
        *,
        streaming: bool = False,
        sampling_config: SamplingConfig = SamplingConfig(),
        output_config: OutputConfig = OutputConfig(),
        end_id: int | None = None,
        pad_id: int | None = None,
        bad_words: Sequence[Sequence[int]] | None = None,
        stop_words: Sequence[Sequence[int]] | None = None,
        client_id: int | None = None,
        return_all_generated_tokens: bool = False,
        priority: float = 0.5,
        allotted_time_ms: datetime.timedelta | None = None,
        cache_salt_id: int | None = None,
    ) -> None: ...
    @property
    def input_token_ids(self) -> list[int]: ...
    @property
    def max_tokens(self) -> int: ...
    streaming: bool
    sampling_config: SamplingConfig
    output_config: OutputConfig
    end_id: int | None
    pad_id: int | None
    bad_words: Sequence[Sequence[int]] | None
    stop_words: Sequence[Sequence[int]] | None
    client_id: int | None

class TimingMetrics:
    """Points of the C++ steady clock, as timedelta."""

    arrival_time: datetime.timedelta
    first_scheduled_time: datetime.timedelta
    first_token_time: datetime.timedelta
    last_token_time: datetime.timedelta

class KvCacheMetrics:
    num_total_allocated_blocks: int
    num_new_allocated_blocks: int
    num_reused_blocks: int
    num_missed_blocks: int
    kv_cache_hit_rate: float

class RequestPerfMetrics:
    timing_metrics: TimingMetrics
    kv_cache_metrics: KvCacheMetrics
    first_iter: int | None
    last_iter: int | None
    iter: int | None

class Result:
    """One beam each at the outer level of the lists.

    `output_token_ids`: while streaming, what is new since the last Response, and it may be nothing in the last one. The
    token that is `end_id` is never among them; the tokens of a stop word are. Without streaming, the prompt precedes
    them unless exclude_input_from_output is set. `log_probs`: of all generated tokens so far, also while streaming, and
    for END_ID possibly one more than there are tokens.

    Source: cpp/tensorrt_llm/batch_manager/llmRequest.cpp, createResult [H]; end_id:
    cpp/tensorrt_llm/kernels/samplingTopKKernels.cu ("Do not increase seq len when EOS is generated") [H]; the one more:
    tensorrt_llm/executor/result.py cuts log_probs to the tokens [M]
    """

    is_final: bool
    output_token_ids: list[list[int]]
    cum_log_probs: list[float] | None
    log_probs: list[list[float]] | None
    finish_reasons: list[FinishReason]
    sequence_index: int
    is_sequence_final: bool
    decoding_iter: int
    request_perf_metrics: RequestPerfMetrics | None

class Response:
    """Either `error_msg` or `result`: asking for the other throws."""

    @property
    def request_id(self) -> int: ...
    @property
    def client_id(self) -> int | None: ...
    def has_error(self) -> bool: ...
    @property
    def error_msg(self) -> str: ...
    @property
    def result(self) -> Result: ...

class KvCacheStats:
    max_num_blocks: int
    free_num_blocks: int
    used_num_blocks: int
    tokens_per_block: int
    alloc_total_blocks: int
    alloc_new_blocks: int
    reused_blocks: int
    missed_blocks: int
    cache_hit_rate: float

class InflightBatchingStats:
    num_scheduled_requests: int
    num_context_requests: int
    num_gen_requests: int
    num_paused_requests: int
    num_ctx_tokens: int
    micro_batch_id: int
    avg_num_decoded_tokens_per_iter: float

class IterationStats:
    """Of one iteration. There are none while nothing runs."""

    timestamp: str
    iter: int
    iter_latency_ms: float
    new_active_requests_queue_latency_ms: float
    num_new_active_requests: int
    num_active_requests: int
    num_queued_requests: int
    num_completed_requests: int
    max_num_active_requests: int
    gpu_mem_usage: int
    cpu_mem_usage: int
    pinned_mem_usage: int
    kv_cache_stats: KvCacheStats | None
    inflight_batching_stats: InflightBatchingStats | None

    def to_json_str(self) -> str: ...

class Executor:
    """Made on every rank, with the same engine and config: a rank that does not come leaves the others waiting.

    The leader is rank 0. On the others everything but can_enqueue_requests and shutdown throws ("With LEADER
    communication mode, only leader rank is expected to call …"). After shutdown everything but these two throws
    ("Shutdown called"). There is no heartbeat: if a rank dies, the leader waits for ever.

    Source: cpp/tensorrt_llm/executor/executorImpl.cpp, main 1.1..1.2 [H]
    """

    def __init__(
        self, model_path: str | PathLike[str], model_type: ModelType, executor_config: ExecutorConfig
    ) -> None: ...
    def enqueue_request(self, request: Request) -> int:
        """Its id. Holds the GIL.

        Throws "Maximum queue size of N has been reached, please try again later" where N requests wait to be fetched;
        those that run do not count. What is wrong with the request itself comes as an error Response
        ("Encountered an error when fetching new request: …").
        """
    def enqueue_requests(self, requests: Sequence[Request]) -> list[int]: ...
    @overload
    def await_responses(self, timeout: datetime.timedelta | None = None) -> list[Response]:
        """All there are, once there is one; none where `timeout` passes first. Releases the GIL."""
    @overload
    def await_responses(self, id: int, timeout: datetime.timedelta | None = None) -> list[Response]:
        """One error Response where the request's last Response was fetched before."""
    @overload
    def await_responses(
        self, ids: Sequence[int], timeout: datetime.timedelta | None = None
    ) -> list[list[Response]]: ...
    def get_num_responses_ready(self, id: int | None = None) -> int: ...
    def cancel_request(self, id: int | None = None) -> None:
        """Takes effect between iterations: a last Response with FinishReason.CANCELLED follows.

        A request that still waits is cancelled when it has been fetched. One that is done is ignored.
        """
    def get_latest_iteration_stats(self) -> list[IterationStats]:
        """Those since the last call, at most the last iter_stats_max_iterations."""
    def can_enqueue_requests(self) -> bool: ...
    def shutdown(self) -> None:
        """On the leader: finishes what runs and what waits, tells the others and returns. On these: waits for that.

        A second call does nothing. Releases the GIL.
        """
