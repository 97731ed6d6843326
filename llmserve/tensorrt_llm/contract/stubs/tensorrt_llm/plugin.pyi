"""Which of TensorRT-LLM's own kernels an engine is built with.

Source: tensorrt_llm/plugin/plugin.py, main 1.1..1.2 [H]
"""

class PluginConfig:
    """Set its attributes on `BuildConfig.plugin_config`: that holds for the dataclass of 1.1 and the pydantic of 1.2.

    A plugin that is "auto" reads as the dtype. An unknown name is ignored by the constructor, refused by assignment.
    """

    def __init__(self) -> None: ...
    dtype: str = "float16"
    gpt_attention_plugin: str | None = "auto"
    gemm_plugin: str | None = None
    nccl_plugin: str | None = "auto"
    context_fmha: bool = True
    paged_kv_cache: bool | None = None
    remove_input_padding: bool = True
    reduce_fusion: bool = False
    tokens_per_block: int = 32
    use_paged_context_fmha: bool = True
    use_fp8_context_fmha: bool = True
    use_fused_mlp: bool = True
