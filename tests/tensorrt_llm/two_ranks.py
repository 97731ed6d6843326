"""A rank of `mpirun -n 2`: makes an Executor of the engine that its argument names, and uses it."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from mpi4py import MPI
from tensorrt_llm.bindings import executor as trtllm

rank = MPI.COMM_WORLD.Get_rank()


def say(text: object) -> None:
    print(f"{rank}: {text}", flush=True)


started = time.monotonic()
executor = trtllm.Executor(sys.argv[1], trtllm.ModelType.DECODER_ONLY, trtllm.ExecutorConfig())
say(f"leads: {executor.can_enqueue_requests()}")
if rank:
    for call in (executor.get_latest_iteration_stats, lambda: executor.cancel_request(1)):
        try:
            call()
        except RuntimeError as e:
            say(str(e).split(" (")[0])
    executor.shutdown()
    say(f"let go after {'more' if time.monotonic() - started > 0.3 else 'less'} than 0.3 s")
else:
    ids = executor.enqueue_requests([trtllm.Request([1, 2, i], 4, streaming=True) for i in range(3)])
    finals: list[str] = []
    while len(finals) < len(ids):
        responses = executor.await_responses(timedelta(seconds=60))
        if not responses:
            say("nothing comes any more")
            MPI.COMM_WORLD.Abort(3)
        finals += [r.result.finish_reasons[0].name for r in responses if r.result.is_final]
    say(" ".join(finals))
    time.sleep(0.3)
    executor.shutdown()
