"""The model classes.

Source: tensorrt_llm/models/__init__.py, 1.0 [M]
"""

from .chatglm import ChatGLMForCausalLM as ChatGLMForCausalLM
from .llama import LLaMAForCausalLM as LLaMAForCausalLM
from .modeling_utils import PretrainedConfig as PretrainedConfig
from .modeling_utils import PretrainedModel as PretrainedModel
from .qwen import QWenForCausalLM as QWenForCausalLM
