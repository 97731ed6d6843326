"""Which part of a model a rank holds.

Source: tensorrt_llm/mapping.py, 1.0 [H]
"""

class Mapping:
    """Raises ValueError unless tp_size * pp_size * cp_size == world_size. A rank's tp_rank is rank % tp_size."""

    def __init__(
        self,
        world_size: int = 1,
        rank: int = 0,
        gpus_per_node: int = 8,
        *,
        cp_size: int = 1,
        tp_size: int = 1,
        pp_size: int = 1,
        moe_tp_size: int = -1,
        moe_ep_size: int = -1,
    ) -> None: ...
    world_size: int
    rank: int
    tp_size: int
    pp_size: int
    cp_size: int
