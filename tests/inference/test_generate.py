import pytest
import torch

from rayllm.core.errors import ConfigError
from rayllm.inference.config import SamplingConfig
from rayllm.inference.generate import generate, stream
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer

GREEDY = SamplingConfig(temperature=0)
PROMPTS = [[3], [5, 9, 2, 30, 11], [7, 7, 1]]


def build(real_vocab_size: int | None = None) -> Transformer:
    config = ModelConfig(
        vocab_size=40, real_vocab_size=real_vocab_size, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48,
        max_seq_len=32,
    )  # fmt: skip
    model = Transformer(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1))
    return model


@torch.no_grad()
def greedy_without_cache(model: Transformer, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model.logits(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone_without_a_cache() -> None:
    model = build()
    found = generate(model, PROMPTS, max_new_tokens=10, sampling=GREEDY)
    assert found == [greedy_without_cache(model, prompt, 10) for prompt in PROMPTS]
    assert len({tuple(row) for row in found}) == 3


def test_a_row_ends_at_its_stop_id_and_the_others_go_on() -> None:
    model = build()
    free = generate(model, PROMPTS, max_new_tokens=10, sampling=GREEDY)
    stop = free[1][4]
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert generate(model, PROMPTS, max_new_tokens=10, sampling=GREEDY, stop_ids={stop}) == expected


def test_the_stream_ends_when_all_rows_have() -> None:
    model = build()
    first = generate(model, PROMPTS, max_new_tokens=1, sampling=GREEDY)
    stops = {row[0] for row in first}
    steps = list(stream(model, PROMPTS, max_new_tokens=10, sampling=GREEDY, stop_ids=stops))
    assert steps == [[None, None, None]]


def test_the_seed_decides() -> None:
    model, warm = build(), SamplingConfig(temperature=1.5, top_k=0)
    runs = [generate(model, PROMPTS, max_new_tokens=12, sampling=warm, seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_padding_ids_never_come() -> None:
    hot = SamplingConfig(temperature=50.0, top_k=0)
    rows = generate(build(real_vocab_size=33), [[1]] * 20, max_new_tokens=20, sampling=hot)
    assert max(max(row) for row in rows) == 32


def test_generation_fills_the_context_to_the_last_token_and_no_further() -> None:
    model = build()
    assert len(generate(model, [[1, 2]], max_new_tokens=30)[0]) == 30
    with pytest.raises(ConfigError, match="ask for at most 30 new tokens"):
        generate(model, [[1, 2]], max_new_tokens=31)


def test_an_empty_prompt_is_refused_and_no_prompt_gives_nothing() -> None:
    with pytest.raises(ConfigError, match="empty"):
        generate(build(), [[1], []], max_new_tokens=2)
    assert generate(build(), [], max_new_tokens=2) == []


def test_generating_leaves_the_model_as_it_was_and_keeps_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_gradient(logits: torch.Tensor, *rest: object) -> torch.Tensor:
        assert not logits.requires_grad
        return logits.argmax(-1)

    monkeypatch.setattr("rayllm.inference.generate.sample", without_gradient)
    model = build().train()
    before = [parameter.clone() for parameter in model.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        steps = stream(model, PROMPTS, max_new_tokens=3)
        next(steps)
        assert torch.is_grad_enabled()
        list(steps)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
