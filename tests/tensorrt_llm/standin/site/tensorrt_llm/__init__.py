"""Stands in for NVIDIA's TensorRT-LLM 1.2.1 in tests: put the folder above this one on PYTHONPATH.

Every module, class and call below is generated from llmserve's contract (`llmserve/tensorrt_llm/contract/stubs`), so
that a call that does not bind there, or an attribute that is not there, fails here. What they do, as far as the
contract says it, is in `_executor` and `_building`; what a test may set and break, in `standin_control`.
"""

from standin_control import settings

from tensorrt_llm import _building, _executor
from tensorrt_llm._generated import generate

generate(
    __name__,
    behaviours={**_executor.BEHAVIOURS, **_building.BEHAVIOURS},
    leave_out=() if settings().engines else ("builder", "models", "plugin", "bindings.executor"),
)
__version__ = settings().version
