"""Qwen v1 to 3, dense and mixtures of experts.

Source: tensorrt_llm/models/qwen/model.py, 1.0 and main 1.1..1.2 [M]
"""

from ..mapping import Mapping
from .modeling_utils import PretrainedModel, QuantConfig

class QWenForCausalLM(PretrainedModel):
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
        use_hf_gptq_checkpoint: bool = False,
        use_autoawq: bool = False,
    ) -> QWenForCausalLM:
        """The names after the asterisk are taken through **kwargs: an unknown one is not refused there."""
