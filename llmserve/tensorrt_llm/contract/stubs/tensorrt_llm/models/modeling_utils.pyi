"""What all models share: the quantisation they are made with, and how they are made and kept.

Source: tensorrt_llm/models/modeling_utils.py, main 1.1..1.2 [H]
"""

from typing_extensions import Self

from ..mapping import Mapping
from ..quantization import QuantAlgo

class QuantConfig:
    """A dataclass in 1.0 and 1.1, pydantic afterwards, by the same names: use keywords."""

    def __init__(
        self,
        *,
        quant_algo: QuantAlgo | None = None,
        kv_cache_quant_algo: QuantAlgo | None = None,
        group_size: int | None = 128,
        has_zero_point: bool = False,
        pre_quant_scale: bool = False,
        exclude_modules: list[str] | None = None,
    ) -> None: ...

class PretrainedConfig:
    architecture: str
    dtype: str
    vocab_size: int
    mapping: Mapping
    quantization: QuantConfig

class PretrainedModel:
    """One rank's part of a model, ready for `build`."""

    config: PretrainedConfig

    @classmethod
    def from_checkpoint(
        cls,
        ckpt_dir: str,
        rank: int | None = None,
    ) -> Self:
        """A rank's part, of what `save_checkpoint` or `quantize` wrote."""

    def save_checkpoint(self, output_dir: str, save_config: bool = True) -> None:
        """Writes rank{R}.safetensors and, asked to, config.json into `output_dir`, which has to exist."""

    @classmethod
    def quantize(
        cls,
        hf_model_dir: str,
        output_dir: str,
        dtype: str = "auto",
        mapping: Mapping | None = None,
        quant_config: QuantConfig | None = None,
        *,
        calib_dataset: str = "cnn_dailymail",
        calib_batches: int = 512,
        calib_batch_size: int = 1,
        calib_max_seq_length: int = 512,
        random_seed: int = 1234,
        tokenizer_max_seq_length: int = 2048,
    ) -> None:
        """Calibrates on a CUDA device, and writes the checkpoint of all ranks to `output_dir`.

        Raises ValueError where `quant_config` needs no calibration.
        """
