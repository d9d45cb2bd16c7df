"""Which parameters hold several matrices, one above the other.

They are fused for speed; whoever treats a matrix as a whole (Muon, adapters, export) has to see them apart.
"""

from rayllm.model.config import ModelConfig


def block_matrices(config: ModelConfig) -> dict[str, dict[str, int]]:
    """The linear layers of a block: the matrices that each consists of, from the top, by the names that Hugging Face's
    models give them, with their rows.

    Args:
        config: Sizes of the model.
    """
    ffn = config.ffn_dim
    up = (
        {"mlp.gate_up_proj": {"gate_proj": ffn, "up_proj": ffn}}
        if config.is_gated
        else {"mlp.up_proj": {"up_proj": ffn}}
    )
    return {
        "self_attn.qkv_proj": {"q_proj": config.query_dim, "k_proj": config.kv_dim, "v_proj": config.kv_dim},
        "self_attn.o_proj": {"o_proj": config.dim},
        **up,
        "mlp.down_proj": {"down_proj": config.dim},
    }


def matrix_splits(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Rows of each matrix inside a fused parameter, from the top, by the end of the parameter's name.

    Args:
        config: Sizes of the model.
    """
    layers = block_matrices(config).items()
    return {f"{name.rpartition('.')[2]}.weight": tuple(rows.values()) for name, rows in layers if len(rows) > 1}
