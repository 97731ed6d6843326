"""Which part of a model a rank holds.

Source: tensorrt_llm/mapping.py, 1.0 and main 1.1..1.2 [M]
"""

from typing import Any

class Mapping:
    """Raises ValueError unless tp_size * pp_size * cp_size == world_size. A rank's tp_rank is rank % tp_size."""

    def __init__(
        self,
        world_size: int = 1,
        rank: int = 0,
        gpus_per_node: int = 8,
        *,
        cp_size: int = 1,
        cp_config: dict[str, Any] | None = None,
        tp_size: int = 1,
        pp_size: int = 1,
        moe_cluster_size: int = -1,
        moe_tp_size: int = -1,
        moe_ep_size: int = -1,
        attn_tp_size: int = -1,
        attn_cp_size: int = -1,
        enable_attention_dp: bool = False,
    ) -> None: ...
    world_size: int
    rank: int
    tp_size: int
    pp_size: int
    cp_size: int
