import copy
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from rayllm.core.errors import ConfigError
from rayllm.model.config import IGNORE_INDEX, ModelConfig
from rayllm.model.position_config import RopePositions
from rayllm.model.transformer import Transformer

SMALL = ModelConfig(
    vocab_size=97, dim=32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=16, ffn_dim=48, max_seq_len=64
)


def build(config: ModelConfig = SMALL, seed: int = 1) -> Transformer:
    model = Transformer(config)
    model.init_weights(seed)
    return model


def spread(model: Transformer) -> Transformer:
    """Move the weights away from their start, so that no norm is 1 and attention is not flat."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def ids(*shape: int, seed: int = 5, vocab: int = 97) -> torch.Tensor:
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


def qwen3_with_weights_of(model: Transformer) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    config = model.config
    reference = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.ffn_dim,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.resolved_head_dim,
            max_position_embeddings=config.max_seq_len,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.positions.theta},
            tie_word_embeddings=config.tie_embeddings,
        )
    )
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("qkv_proj.weight"):
            parts = tensor.split([config.query_dim, config.kv_dim, config.kv_dim])
            weights |= {name.replace("qkv", kind): part for kind, part in zip("qkv", parts, strict=True)}
        elif name.endswith("gate_up_proj.weight"):
            gate, up = tensor.chunk(2)
            weights |= {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
        else:
            weights[name] = tensor
    reference.load_state_dict(weights)
    return reference.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_logits_equal_those_of_qwen3(tied: bool, num_kv_heads: int) -> None:
    config = SMALL.model_copy(
        update={"tie_embeddings": tied, "num_kv_heads": num_kv_heads, "positions": RopePositions(theta=5000.0)}
    )
    model = spread(build(config))
    tokens = ids(2, 40)
    with torch.no_grad():
        expected = qwen3_with_weights_of(model)(tokens).logits
        found = model.logits(tokens)
    assert expected.std() > 1
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("chunk", [7, 4096])
def test_token_losses_equal_cross_entropy_of_the_logits(chunk: int) -> None:
    model = spread(build(SMALL.model_copy(update={"loss_chunk_tokens": chunk})))
    tokens, labels = ids(3, 20), ids(3, 20, seed=6)
    labels[0, :5] = IGNORE_INDEX
    losses = model(tokens, labels)
    expected = F.cross_entropy(model.logits(tokens).transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(losses, expected)
    assert losses.dtype == torch.float32
    assert (losses[0, :5] == 0).all()


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_do_not_depend_on_the_chunks_or_on_checkpointing(tied: bool) -> None:
    config = SMALL.model_copy(update={"tie_embeddings": tied})
    tokens, labels = ids(3, 20), ids(3, 20, seed=6)
    weights = torch.rand(3, 20)
    gradients = []
    for chunk, again in ((4096, "none"), (7, "none"), (7, "full"), (7, "selective")):
        model = spread(build(config.model_copy(update={"loss_chunk_tokens": chunk})))
        model.set_activation_checkpointing(again)
        (model(tokens, labels) * weights).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("chunk", "most"), [(4096, 64), (8, 8)])
def test_logits_exist_for_a_chunk_at_a_time_and_never_in_backward(chunk: int, most: int) -> None:
    model = build(SMALL.model_copy(update={"loss_chunk_tokens": chunk}))
    kernel, seen = model.lm_head.softmax_losses, []
    model.lm_head.softmax_losses = lambda logits, *rest: seen.append(logits.shape[0]) or kernel(logits, *rest)
    shapes: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(t.shape) or t, lambda t: t):
        loss = model(ids(2, 32), ids(2, 32)).sum()
    assert seen == [most] * (64 // most)
    assert not any(97 in shape[1:] for shape in shapes)
    loss.backward()
    assert len(seen) == 64 // most


def test_ignored_labels_send_no_gradient() -> None:
    model = build()
    model(ids(1, 8), torch.full((1, 8), IGNORE_INDEX)).sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_no_token_sees_a_later_one() -> None:
    model = spread(build())
    tokens = ids(1, 16)
    changed = tokens.clone()
    changed[0, 10] = (changed[0, 10] + 1) % 97
    with torch.no_grad():
        difference = (model.logits(tokens) - model.logits(changed)).abs().amax(-1)[0]
    assert (difference[:10] == 0).all()
    assert (difference[10:] > 0).all()


def test_attention_stays_within_a_document() -> None:
    model = spread(build())
    tokens = ids(1, 16)
    doc_ids = torch.tensor([[0] * 6 + [1] * 10])
    changed = tokens.clone()
    changed[0, :6] = ids(6, seed=9)
    with torch.no_grad():
        before, after = model.logits(tokens, doc_ids), model.logits(changed, doc_ids)
        alone = model.logits(tokens[:, 6:])
    assert torch.equal(before[0, 6:], after[0, 6:])
    assert not torch.equal(before[0, :6], after[0, :6])
    torch.testing.assert_close(before[:, 6:], alone, rtol=1e-4, atol=1e-4)


def test_one_document_is_plain_causal_attention() -> None:
    model = spread(build())
    tokens, labels = ids(2, 16), ids(2, 16, seed=6)
    torch.testing.assert_close(model(tokens, labels, torch.ones_like(tokens)), model(tokens, labels))


def test_initial_weights_depend_on_seed_and_name_only() -> None:
    first, second = build(seed=1), Transformer(SMALL)
    torch.manual_seed(99)
    torch.randn(10)
    second.init_weights(1)
    deeper = build(SMALL.model_copy(update={"tie_embeddings": False}), seed=1)
    other = build(seed=2)
    name = "model.layers.1.mlp.gate_up_proj.weight"
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(first.get_parameter(name), deeper.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), first.get_parameter(name.replace("1", "2")))


def test_initial_scale_shrinks_with_depth_where_blocks_write_into_the_stream() -> None:
    config = SMALL.model_copy(update={"dim": 128, "ffn_dim": 256, "num_layers": 8})
    model = build(config)
    std = {name: float(p.detach().std()) for name, p in model.named_parameters() if p.ndim == 2}
    assert std["model.layers.0.mlp.gate_up_proj.weight"] == pytest.approx(0.02, rel=0.05)
    assert std["model.layers.0.mlp.down_proj.weight"] == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
    assert std["model.layers.7.self_attn.o_proj.weight"] == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
    assert (model.model.norm.weight == 1).all()


def test_a_new_model_is_near_uniform() -> None:
    loss = build()(ids(4, 32), ids(4, 32, seed=6)).mean()
    assert float(loss.detach()) == pytest.approx(math.log(97), abs=0.05)


def test_the_loss_is_float32_under_autocast() -> None:
    model = spread(build())
    tokens, labels = ids(2, 16), ids(2, 16, seed=6)
    plain = model(tokens, labels)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(tokens, labels)
    mixed.sum().backward()
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, plain)
    torch.testing.assert_close(mixed, plain, rtol=0.05, atol=0.2)


def test_casting_the_model_does_not_round_the_positions() -> None:
    model = build()
    model.logits(ids(1, 4))
    model.to(torch.bfloat16)
    assert model.logits(ids(1, 4)).dtype == torch.float32
    assert model.model.rotary(4, None, torch.device("cpu")).cos.dtype == torch.float32
    assert not any("rotary" in name for name in model.state_dict())


def test_it_learns_a_repeating_text() -> None:
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    text = ids(1, 8).repeat(4, 4)
    loss = torch.tensor(torch.inf)
    for _ in range(60):
        loss = model(text[:, :-1], text[:, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3


def test_tied_ends_are_one_parameter() -> None:
    tied, untied = build(), build(SMALL.model_copy(update={"tie_embeddings": False}))
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert copy.deepcopy(tied).lm_head.weight is not tied.lm_head.weight
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    assert "lm_head.weight" not in dict(tied.named_parameters())


def test_rows_longer_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="65 tokens exceed the model's max_seq_len 64"):
        build().logits(ids(1, 65))


def test_a_model_needs_its_vocabulary() -> None:
    with pytest.raises(ConfigError, match="with_vocab"):
        Transformer(ModelConfig())


def test_wrong_shapes_are_refused_by_the_signatures() -> None:
    with pytest.raises(Exception, match="labels"):
        build()(ids(2, 8), ids(2, 9))


def test_the_model_needs_neither_ray_nor_deepspeed() -> None:
    code = "import sys, rayllm.model.transformer as t; sys.exit(bool({'ray', 'deepspeed'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
