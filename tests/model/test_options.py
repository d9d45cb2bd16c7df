"""Every option of the model: against a formula in float64, or against a law that all of them keep."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from figures import Tell
from pydantic import ValidationError

from rayllm.model.config import IGNORE_INDEX, ModelConfig
from rayllm.model.flops import count_parameters, training_flops_per_token
from rayllm.model.kv_cache import KVCache
from rayllm.model.layers.feed_forward import make_feed_forward
from rayllm.model.layers.norms import LayerNorm, RMSNorm
from rayllm.model.layers.positions import alibi_slopes, places_in_documents
from rayllm.model.layers.token_losses import LossSettings, token_losses
from rayllm.model.layers.visibility import Outlook
from rayllm.model.transformer import Transformer

CPU = torch.device("cpu")
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "alibi": {"positions": {"kind": "alibi"}},
    "alibi with windows": {"positions": {"kind": "alibi"}, "window": 4, "global_every": 2},
    "learned": {"positions": {"kind": "learned"}},
    "no positions": {"positions": {"kind": "none"}},
    "windows": {"window": 5, "global_every": 2},
    "windows everywhere": {"window": 5, "global_every": 99},
    "geglu, layernorm, bias": {"feed_forward": "geglu", "norm": "layernorm", "bias": True},
    "relu2, unweighted": {
        "feed_forward": "relu2",
        "norm": "rmsnorm_unweighted",
        "qk_norm": "unweighted",
        "embedding_norm": True,
        "logit_softcap": 15.0,
        "tie_embeddings": False,
    },
    "factorised": {"embedding_rank": 8},
    "factorised, untied": {"embedding_rank": 8, "tie_embeddings": False},
    "reglu, layernorm": {"feed_forward": "reglu", "norm": "layernorm", "qk_norm": "none"},
}

UNTIED = {"tie_embeddings": False}


def small(**changes: Any) -> ModelConfig:
    sizes = {"vocab_size": 61, "dim": 24, "num_layers": 3, "num_heads": 6, "num_kv_heads": 2, "ffn_dim": 40}
    return ModelConfig(**{**sizes, "max_seq_len": 64, "exportable": False, **changes})


def build(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    model.init_weights(1)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def ids(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_decoding_with_a_cache_equals_the_full_forward(name: str) -> None:
    config = small(**OPTIONS[name])
    model, tokens = build(config), ids(2, 24)
    cache = KVCache(config, 2, 32, device=CPU, dtype=torch.float32)
    found = torch.cat([model.logits(piece, cache=cache) for piece in tokens.split([9, 1, 1, 6, 7], dim=1)], dim=1)
    torch.testing.assert_close(found, model.logits(tokens), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_a_document_in_a_row_is_as_if_alone(name: str) -> None:
    model, tokens = build(small(**OPTIONS[name])), ids(1, 24)
    doc_ids = torch.tensor([[4] * 7 + [5] * 3 + [6] * 14])
    changed = tokens.clone()
    changed[0, :10] = ids(10, seed=9)
    before, after = model.logits(tokens, doc_ids), model.logits(changed, doc_ids)
    assert torch.equal(before[0, 10:], after[0, 10:])
    assert not torch.equal(before[0, :10], after[0, :10])
    torch.testing.assert_close(before[:, 10:], model.logits(tokens[:, 10:]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", OPTIONS)
def test_no_token_sees_a_later_one_and_the_counts_are_those_of_the_model(name: str) -> None:
    config = small(**OPTIONS[name])
    model, tokens = build(config), ids(1, 24)
    changed = tokens.clone()
    changed[0, 15] = (changed[0, 15] + 1) % 61
    with torch.no_grad():
        difference = (model.logits(tokens) - model.logits(changed)).abs().amax(-1)[0]
    assert (difference[:15] == 0).all()
    assert difference[15] > 0
    counts = count_parameters(config)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    assert counts.norms == sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 1)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_parameter_learns(name: str) -> None:
    model = build(small(**OPTIONS[name])).train()
    model(ids(2, 24), ids(2, 24, seed=6)).mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_a_window_cuts_what_is_further_back() -> None:
    model = build(small(window=4, global_every=99, num_layers=1))
    tokens = ids(1, 20)
    changed = tokens.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 61
    difference = (model.logits(tokens) - model.logits(changed)).abs().amax(-1)[0]
    assert (difference > 0).nonzero().flatten().tolist() == [6, 7, 8, 9]


def test_alibi_is_the_formula_of_the_paper() -> None:
    config = small(positions={"kind": "alibi"}, num_layers=1, qk_norm="none", num_heads=4, num_kv_heads=4)
    attention = build(config).double().model.layers[0].self_attn
    x = torch.randn(1, 9, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, k, v = (part.view(9, 4, 6).transpose(0, 1) for part in attention.qkv_proj(x[0]).chunk(3, dim=-1))
    distance = torch.arange(9)[:, None] - torch.arange(9)
    slopes = torch.tensor([2**-2, 2**-4, 2**-6, 2**-8])
    scores = q @ k.transpose(1, 2) / math.sqrt(6) - slopes[:, None, None] * distance
    scores = scores.masked_fill(distance < 0, -torch.inf)
    expected = attention.o_proj((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    visibility = Outlook(slopes=alibi_slopes(4, CPU)).over_rows(9, None, CPU)
    torch.testing.assert_close(attention(x, None, visibility)[0], expected)


def test_slopes_of_twelve_heads_are_those_of_the_released_code() -> None:
    found = alibi_slopes(12, CPU)
    assert found[:8].tolist() == [2.0**-n for n in range(1, 9)]
    assert found[8:].tolist() == pytest.approx([2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5])


def test_places_begin_again_at_each_document() -> None:
    found = places_in_documents(torch.tensor([[0, 0, 0, 1, 1, 2], [7, 8, 8, 8, 8, 8]]))
    assert found.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]


def test_feed_forward_parts_are_their_formulas() -> None:
    x = torch.randn(2, 3, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    formulas = {
        "swiglu": lambda g, u: g / (1 + torch.exp(-g)) * u,
        "geglu": lambda g, u: F.gelu(g, approximate="tanh") * u,
        "reglu": lambda g, u: g.clamp(min=0) * u,
        "gelu": lambda g, _: 0.5 * g * (1 + torch.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3))),
        "relu2": lambda g, _: g.clamp(min=0) ** 2,
    }
    for name, formula in formulas.items():
        config = small(feed_forward=name)
        part = make_feed_forward(config).double()
        matrix = part.gate_up_proj.weight if config.is_gated else part.up_proj.weight
        gate, up = (x @ matrix.T).chunk(2, dim=-1) if config.is_gated else (x @ matrix.T, None)
        torch.testing.assert_close(part(x), formula(gate, up) @ part.down_proj.weight.T)


def test_norms_are_their_formulas() -> None:
    x = torch.randn(4, 24, generator=torch.Generator().manual_seed(0)) * 3 + 1
    rms = (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(RMSNorm(24, 1e-6, weighted=False)(x), (x.double() / rms).float())
    norm = LayerNorm(24, 1e-5, bias=True)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2), norm.bias.uniform_(-1, 1)
    centred = x.double() - x.double().mean(-1, keepdim=True)
    expected = centred / (x.double().var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected.float())


def test_the_gradient_of_the_unweighted_norm_is_that_of_the_function() -> None:
    from rayllm.model.layers.norms import cpu_rms_norm

    x = torch.randn(3, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: cpu_rms_norm(a, None, 0.1), (x,))


def test_capped_logits_stay_below_the_cap_and_small_ones_as_they_are() -> None:
    model = build(small(logit_softcap=3.0))
    with torch.no_grad():
        model.lm_head.weight.mul_(50)
        capped = model.logits(ids(1, 16))
        model.lm_head.softcap = None
        plain = model.logits(ids(1, 16))
    assert plain.abs().max() > 6
    torch.testing.assert_close(capped, 3 * torch.tanh(plain / 3))


def test_the_z_loss_is_added_while_training_only() -> None:
    model = build(small())
    tokens, labels = ids(2, 12), ids(2, 12, seed=6)
    labels[0, :3] = IGNORE_INDEX
    plain = model(tokens, labels)
    model.set_z_loss(1e-2)
    assert torch.equal(model(tokens, labels), plain)
    log_z = model.logits(tokens).logsumexp(-1)
    expected = plain + 1e-2 * log_z.square() * (labels != IGNORE_INDEX)
    torch.testing.assert_close(model.train()(tokens, labels), expected)
    assert (expected[0, :3] == 0).all()


def test_the_gradient_of_the_z_loss_by_hand() -> None:
    weight = torch.eye(2, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    (with_z,) = torch.autograd.grad(token_losses(rows, weight, torch.tensor([0]), LossSettings(z_loss=0.5)).sum(), rows)
    (without,) = torch.autograd.grad(token_losses(rows, weight, torch.tensor([0])).sum(), rows)
    softmax, log_z = rows.softmax(-1)[0], rows.logsumexp(-1)[0]
    torch.testing.assert_close(with_z[0] - without[0], 2 * 0.5 * log_z * softmax, rtol=1e-5, atol=1e-6)


def test_factorised_embeddings_of_a_large_vocabulary_are_a_fraction(tell: Tell) -> None:
    sizes: dict[str, Any] = {"vocab_size": 200_064, "dim": 1024, "num_layers": 24, "num_heads": 16, "num_kv_heads": 8}
    whole = count_parameters(ModelConfig(**sizes, ffn_dim=2816))
    ranked = count_parameters(ModelConfig(**sizes, ffn_dim=2816, embedding_rank=128, exportable=False))
    for kind, counts in (("whole", whole), ("rank 128", ranked)):
        tell("parameters with 200k ids at width 1,024", embeddings=kind, parameters=f"{counts.total / 1e6:,.1f} M")
    assert whole.embedding == 200_064 * 1024
    assert ranked.embedding + ranked.projections == 200_064 * 128 + 2 * 128 * 1024
    assert ranked.total < 0.65 * whole.total


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_factorised_embeddings_are_full_ones_of_a_low_rank(tied: bool) -> None:
    ranked, whole = (
        build(small(**sizes)).double() for sizes in ({"embedding_rank": 8, "tie_embeddings": tied}, UNTIED)
    )
    embedding, head = ranked.model, ranked.lm_head
    products = {
        "model.embed_tokens.weight": embedding.embed_tokens.weight @ embedding.embed_projection.weight.T,
        "lm_head.weight": head.weight @ head.projection.weight,
    }
    for name, parameter in whole.named_parameters():
        parameter.copy_(products[name] if name in products else ranked.get_parameter(name))
    tokens = ids(2, 24)
    expected = whole.model(tokens)
    torch.testing.assert_close(embedding(tokens), expected)
    found = ranked.logits(tokens).double()  # made in float64, given in float32
    torch.testing.assert_close(found, expected @ products["lm_head.weight"].T, rtol=1e-6, atol=1e-6)


def test_a_window_lowers_the_flops_of_its_layers() -> None:
    full, narrow = small(), small(window=16, global_every=3)
    saved = training_flops_per_token(full, 64) - training_flops_per_token(narrow, 64)
    assert saved == 12 * full.query_dim * 2 * (64 - 16)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in ("default", "windows", "windows everywhere")])
def test_what_transformers_cannot_hold_must_be_said(name: str) -> None:
    with pytest.raises(ValidationError, match="set exportable to false"):
        small(**OPTIONS[name], exportable=True)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"global_every": 2}, "set window, in tokens, too"),
        ({"window": 8}, "with global_every 1 no layer uses it"),
        ({"head_dim": 5}, "set an even head_dim"),
        (
            {"positions": {"scaling": {"kind": "yarn", "factor": 2, "original_max_seq_len": 8, "beta_slow": 40}}},
            "must be below beta_fast",
        ),
    ],
)  # fmt: skip
def test_choices_that_disagree_are_refused_with_the_fix(settings: dict[str, Any], fix: str) -> None:
    with pytest.raises(ValidationError, match=fix):
        small(**settings)


def test_initial_activations_hold_from_width_128_to_2048(tell: Tell) -> None:
    scales = {}
    for scheme in ("fan_in", "normal"):
        for width in (128, 512, 2048):
            config = small(
                dim=width, num_heads=4, num_kv_heads=4, ffn_dim=2 * width, vocab_size=256, init_scale=scheme,
                tie_embeddings=False, embedding_norm=True,
            )  # fmt: skip
            model = Transformer(config)
            model.init_weights(1)
            with torch.no_grad():
                stream = model.model.layers[0](
                    model.model.embed_norm(model.model.embed_tokens(ids(2, 32))),
                    None,
                    Outlook().over_rows(32, None, CPU),
                )
                part = model.model.layers[1].mlp(model.model.layers[1].post_attention_layernorm(stream))
            scales[scheme, width] = float(part.std())
    flat = [scales["fan_in", width] for width in (128, 512, 2048)]
    grown = [scales["normal", width] for width in (128, 512, 2048)]
    for scheme, found in (("fan_in", flat), ("normal", grown)):
        at = {f"width_{width}": f"{scale:.3f}" for width, scale in zip((128, 512, 2048), found, strict=True)}
        tell("initial scale of a block's feed-forward output", init_scale=scheme, **at)
    assert max(flat) / min(flat) < 1.1
    assert grown[-1] / grown[0] > 8  # the fixed scale is what goes wrong
