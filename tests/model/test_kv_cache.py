import pytest
import torch

from rayllm.model.config import ModelConfig
from rayllm.model.kv_cache import KVCache
from rayllm.model.transformer import Transformer

CONFIG = ModelConfig(vocab_size=50, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=32)


def build() -> Transformer:
    model = Transformer(CONFIG)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
    return model


def new_cache(batch: int, capacity: int = 32) -> KVCache:
    return KVCache(CONFIG, batch, capacity, device=torch.device("cpu"), dtype=torch.float32)


def tokens(batch: int, seq: int) -> torch.Tensor:
    return torch.randint(50, (batch, seq), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pieces", [[1] * 12, [12], [7, 1, 1, 3], [5, 7]])
@torch.no_grad()
def test_decoding_in_pieces_equals_the_full_forward(pieces: list[int]) -> None:
    model, ids, cache = build(), tokens(3, 12), new_cache(3)
    found = torch.cat([model.logits(piece, cache=cache) for piece in ids.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(found, model.logits(ids), rtol=1e-4, atol=1e-5)
    assert cache.lengths == (12, 12, 12)


@pytest.mark.parametrize("pieces", [[1] * 4, [3, 1], [4]])
@torch.no_grad()
def test_rows_of_different_lengths_decode_as_if_alone(pieces: list[int]) -> None:
    model, cache, lengths = build(), new_cache(3), [2, 9, 5]
    prompt, following = tokens(3, 9), tokens(3, 13)[:, 9:]
    model.logits(prompt, cache=cache)
    cache.truncate(lengths)
    found = torch.cat([model.logits(piece, cache=cache) for piece in following.split(pieces, dim=1)], dim=1)
    for row, length in enumerate(lengths):
        whole = torch.cat([prompt[row : row + 1, :length], following[row : row + 1]], dim=1)
        torch.testing.assert_close(found[row : row + 1], model.logits(whole)[:, length:], rtol=1e-4, atol=1e-5)
    assert cache.lengths == tuple(length + 4 for length in lengths)


@torch.no_grad()
def test_a_full_cache_refuses_more_and_stays_usable() -> None:
    model, cache = build(), new_cache(1, capacity=4)
    model.logits(tokens(1, 3), cache=cache)
    with pytest.raises(ValueError, match="holds 4 tokens a row; 5 do not fit"):
        model.logits(tokens(1, 2), cache=cache)
    model.logits(tokens(1, 1), cache=cache)
    assert cache.lengths == (4,)


def test_a_cache_longer_than_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="max_seq_len 32"):
        new_cache(1, capacity=33)


def test_truncation_cannot_add_tokens() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        new_cache(2).truncate([1, 0])


def test_documents_and_a_cache_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="either doc_ids or a cache"):
        build().logits(tokens(1, 4), torch.zeros(1, 4, dtype=torch.long), new_cache(1))


def test_generating_in_inference_mode_leaves_the_model_trainable() -> None:
    model = build()
    with torch.inference_mode():
        model.logits(tokens(1, 4), cache=new_cache(1))
    model(tokens(1, 4), tokens(1, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
