"""How weights and activations may be quantised.

Source: tensorrt_llm/quantization/mode.py, main 1.1..1.2 [H]; on SM: tensorrt_llm/builder.py, build [H]
"""

import enum

class QuantAlgo(enum.Enum):
    """Upstream a `StrEnum` whose values are the names. W8A16, W4A16 and FP8_PER_CHANNEL_PER_TOKEN need no calibration.

    W8A16 and W4A16 are refused by `build` on SM 100 to 119.
    """

    W8A16 = "W8A16"
    W4A16 = "W4A16"
    W4A16_AWQ = "W4A16_AWQ"
    W4A16_GPTQ = "W4A16_GPTQ"
    W8A8_SQ_PER_CHANNEL = "W8A8_SQ_PER_CHANNEL"
    W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN = "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"
    W8A8_SQ_PER_TENSOR_PLUGIN = "W8A8_SQ_PER_TENSOR_PLUGIN"
    FP8 = "FP8"
    FP8_PER_CHANNEL_PER_TOKEN = "FP8_PER_CHANNEL_PER_TOKEN"
    INT8 = "INT8"
    MIXED_PRECISION = "MIXED_PRECISION"
    NO_QUANT = "NO_QUANT"
