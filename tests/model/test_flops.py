import pytest

from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters, training_flops_per_token
from rayllm.model.transformer import Transformer


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qk_norm", ["weighted", "none"])
def test_counts_equal_the_parameters_of_a_real_model(tied: bool, qk_norm: str) -> None:
    config = ModelConfig(
        vocab_size=101, dim=24, num_layers=3, num_heads=6, num_kv_heads=2, head_dim=10, ffn_dim=40, qk_norm=qk_norm,
        tie_embeddings=tied,
    )  # fmt: skip
    model, counts = Transformer(config), count_parameters(config)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    assert counts.norms == sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 1)
    assert counts.embedding == model.model.embed_tokens.weight.numel()
    assert counts.matmul == model.lm_head.weight.numel() + sum(
        parameter.numel() for name, parameter in model.model.layers.named_parameters() if parameter.ndim == 2
    )


def test_flops_of_gpt2_small_by_hand() -> None:
    config = ModelConfig(
        vocab_size=50_304, dim=768, num_layers=12, num_heads=12, num_kv_heads=12, ffn_dim=2048, max_seq_len=1024
    )
    n = 12 * (4 * 768 * 768 + 3 * 768 * 2048) + 50_304 * 768
    assert training_flops_per_token(config, 1024) == 6 * n + 12 * 12 * 768 * 1024
