"""The model classes.

What follows the asterisk in `from_hugging_face` is taken through **kwargs. There an unknown name is no error: the
config gets an attribute of that name.

Source: tensorrt_llm/models/__init__.py, 1.0 [M]
"""

from ..mapping import Mapping
from .modeling_utils import PretrainedConfig as PretrainedConfig
from .modeling_utils import PretrainedModel as PretrainedModel
from .modeling_utils import QuantConfig

class ChatGLMForCausalLM(PretrainedModel):
    """ChatGLM 1 to 3 and glm-4-9b. Without `chatglm_version` it is guessed from the model's path.

    Source: tensorrt_llm/models/chatglm/{model,config}.py, 1.0 [H]
    """

    @classmethod
    def from_hugging_face(
        cls,
        hf_model_or_dir: str,
        dtype: str = "auto",
        mapping: Mapping | None = None,
        quant_config: QuantConfig | None = None,
        *,
        load_model_on_cpu: bool = False,
        trust_remote_code: bool = True,
        chatglm_version: str | None = None,
    ) -> ChatGLMForCausalLM: ...

class LLaMAForCausalLM(PretrainedModel):
    """Llama, Mistral, Mixtral and what is built like them.

    Source: tensorrt_llm/models/llama/{model,config}.py, main 1.1..1.2 [H]
    """

    @classmethod
    def from_hugging_face(
        cls,
        hf_model_or_dir: str,
        dtype: str = "auto",
        mapping: Mapping | None = None,
        quant_config: QuantConfig | None = None,
        *,
        load_model_on_cpu: bool = False,
        use_autoawq: bool | None = None,
        trust_remote_code: bool = True,
    ) -> LLaMAForCausalLM: ...

class QWenForCausalLM(PretrainedModel):
    """Qwen v1 to 3, dense and mixtures of experts.

    A GPTQ checkpoint is told by quant_algo=W4A16_GPTQ alone; `use_autoawq`: matrices lie as AutoAWQ has them.

    Source: tensorrt_llm/models/qwen/{model,config}.py, main 1.1..1.2 [H]
    """

    @classmethod
    def from_hugging_face(
        cls,
        hf_model_or_dir: str,
        dtype: str = "auto",
        mapping: Mapping | None = None,
        quant_config: QuantConfig | None = None,
        *,
        load_model_on_cpu: bool = False,
        use_autoawq: bool = False,
        trust_remote_code: bool = True,
    ) -> QWenForCausalLM: ...
