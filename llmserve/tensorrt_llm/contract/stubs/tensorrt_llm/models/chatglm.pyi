"""ChatGLM 1 to 3 and glm-4-9b. Without `chatglm_version` it is guessed from the model's path.

Source: tensorrt_llm/models/chatglm/model.py, 1.0 and main 1.1..1.2 [M]
"""

from ..mapping import Mapping
from .modeling_utils import PretrainedModel, QuantConfig

class ChatGLMForCausalLM(PretrainedModel):
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
        use_parallel_embedding: bool = False,
        embedding_sharding_dim: int = 0,
        logits_dtype: str = "float32",
        chatglm_version: str | None = None,
    ) -> ChatGLMForCausalLM:
        """The names after the asterisk are taken through **kwargs: an unknown one is not refused there."""
