"""Which parameters hold several matrices, one above the other.

They are fused for speed; whoever treats a matrix as a whole (Muon, adapters, export) has to see them apart.
"""

from rayllm.model.config import ModelConfig


def matrix_splits(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Rows of each matrix inside a fused parameter, from the top, by the end of the parameter's name.

    Args:
        config: Sizes of the model.
    """
    return {
        "qkv_proj.weight": (config.query_dim, config.kv_dim, config.kv_dim),
        "gate_up_proj.weight": (config.ffn_dim, config.ffn_dim),
    }
