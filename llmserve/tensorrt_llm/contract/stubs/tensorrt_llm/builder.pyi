"""From a model to an engine.

Source: tensorrt_llm/builder.py, main 1.1..1.2 [H]; pydantic by the same names in 1.2 [M]
"""

from .models.modeling_utils import PretrainedConfig, PretrainedModel
from .plugin import PluginConfig

class BuildConfig:
    def __init__(
        self,
        *,
        max_input_len: int = 1024,
        max_seq_len: int | None = None,
        max_batch_size: int = 2048,
        max_beam_width: int = 1,
        max_num_tokens: int = 8192,
        opt_num_tokens: int | None = None,
        input_timing_cache: str | None = None,
        output_timing_cache: str | None = "model.cache",
        plugin_config: PluginConfig = PluginConfig(),
    ) -> None:
        """`output_timing_cache` is written by rank 0, a relative one to the working directory."""
    max_input_len: int
    max_seq_len: int | None
    max_batch_size: int
    max_beam_width: int
    max_num_tokens: int
    input_timing_cache: str | None
    output_timing_cache: str | None
    plugin_config: PluginConfig

class EngineConfig:
    pretrained_config: PretrainedConfig
    build_config: BuildConfig
    version: str

class Engine:
    config: EngineConfig

    def save(self, engine_dir: str) -> None:
        """Makes `engine_dir`; writes rank{R}.engine there and, being rank 0, config.json.

        config.json holds version, pretrained_config (with mapping and quantization) and build_config.
        """

def build(model: PretrainedModel, build_config: BuildConfig) -> Engine:
    """Compiles for the current device. Sets plugins by the model's dtype and quantisation, on a copy of the config.

    An int8 KV cache turns use_paged_context_fmha off. Raises RuntimeError where weight-only quantisation meets
    SM 100 to 119.
    """

def get_engine_version(engine_dir: str) -> str | None: ...
