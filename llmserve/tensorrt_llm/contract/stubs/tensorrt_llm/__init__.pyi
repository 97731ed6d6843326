"""The names of TensorRT-LLM 1.2.1 that llmserve relies on: this folder is the contract, as type stubs.

Only what the adapter uses stands here. The same text is read by mypy (the adapter's calls bind), by the stand-in of the
tests (it is generated from these files and refuses every other call) and by `llmserve verify-tensorrt-llm` (what a real
wheel has otherwise). Each docstring's `Source:` says where a fact is from: paths are of github.com/NVIDIA/TensorRT-LLM;
`main 1.1..1.2` is a state of its main branch between the two releases. [H]: read there. [M]: read in a neighbouring
version. [L]: concluded. No word of it was read in the 1.2.1 wheel itself.

Source: tensorrt_llm/__init__.py, tensorrt_llm/version.py, main 1.0rc4 [M]
"""

from .builder import BuildConfig as BuildConfig
from .builder import build as build
from .mapping import Mapping as Mapping

__version__: str = "1.2.1"
