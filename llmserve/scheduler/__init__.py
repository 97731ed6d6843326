"""In-flight batching and the block pool: who computes which tokens in the next step, and into which KV blocks.

Standard library only. It knows token ids, rows and block numbers; tensors, devices, ranks and text are elsewhere.
"""

from llmserve.scheduler.block_pool import BlockPool
from llmserve.scheduler.counters import Counters
from llmserve.scheduler.plan import Chunk, Pooled, Sampled, StepPlan
from llmserve.scheduler.scheduler import Scheduler
from llmserve.scheduler.sequence import Sequence

__all__ = ["BlockPool", "Chunk", "Counters", "Pooled", "Sampled", "Scheduler", "Sequence", "StepPlan"]
