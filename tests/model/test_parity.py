"""Our models with the weights of transformers' give the same logits, through the table that export and import use."""

from typing import Any

import pytest
import torch
from figures import Tell

from rayllm.interchange.layouts import from_hf_config, join, model_type, parts, split, to_hf_config
from rayllm.model.config import ModelConfig
from rayllm.model.layers.positions import scale_frequencies
from rayllm.model.position_config import RopePositions
from rayllm.model.transformer import Transformer

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "dim": 32,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "ffn_dim": 48,
    "max_seq_len": 256,
}
ROPE = {"kind": "rope", "theta": 5000.0}
GPT2: dict[str, Any] = {
    "num_kv_heads": 4,
    "head_dim": None,
    "positions": {"kind": "learned"},
    "feed_forward": "gelu",
    "norm": "layernorm",
    "norm_eps": 1e-5,
    "qk_norm": "none",
    "bias": True,
}
CASES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "qwen3 untied, multi-query": {"tie_embeddings": False, "num_kv_heads": 1},
    "qwen3 with windows": {"window": 7, "global_every": 3},
    "qwen3, every layer with a window": {"window": 5, "global_every": 4},
    "llama": {"qk_norm": "none"},
    "llama, multi-head, biases": {"qk_norm": "none", "bias": True, "num_kv_heads": 4},
    "rope linear": {"positions": ROPE | {"scaling": {"kind": "linear", "factor": 4}}},
    "rope ntk": {"positions": ROPE | {"scaling": {"kind": "ntk", "factor": 4}}},
    "rope yarn": {"positions": ROPE | {"scaling": {"kind": "yarn", "factor": 4, "original_max_seq_len": 64}}},
    "rope llama3": {
        "qk_norm": "none",
        "positions": ROPE | {"scaling": {"kind": "llama3", "factor": 8, "original_max_seq_len": 64}},
    },
    "gpt2": GPT2,
    "gpt2 untied": GPT2 | {"tie_embeddings": False},
}


def spread_weights(model: torch.nn.Module) -> None:
    """Weights away from their start, so that no norm is 1, no bias 0 and attention not flat."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers(name: str, tell: Tell) -> None:
    config = ModelConfig(**SIZES | CASES[name])
    model = Transformer(config)
    model.init_weights(1)
    spread_weights(model)
    content = to_hf_config(config)
    kind = transformers.AutoConfig.for_model(**content)
    reference = transformers.AutoModelForCausalLM.from_config(kind, attn_implementation="eager").eval()
    theirs = {}
    for ours, pieces in parts(config).items():
        theirs |= split(model.get_parameter(ours), pieces)
    missing = reference.load_state_dict(theirs, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"} if config.tie_embeddings else not missing
    tokens = torch.randint(97, (2, 200), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, found = reference(tokens).logits, model.logits(tokens)
        exact = reference.double()(tokens).logits
    assert expected.std() > 0.5
    gap, rounding = float((found - expected).abs().max()), float((expected - exact).abs().max())
    largest = float(expected.abs().max())
    tell(
        "logits against transformers",
        model=name,
        largest_gap=f"{gap:.1e}",
        their_own_rounding=f"{rounding:.1e}",
        largest_logit=f"{largest:.1f}",
    )
    assert gap < 1e-5 * largest, gap


@pytest.mark.parametrize("name", [name for name in CASES if "gpt2" not in name])
def test_rotary_frequencies_are_those_of_transformers_to_the_bit(name: str) -> None:
    config = ModelConfig(**SIZES | CASES[name])
    kind = transformers.AutoConfig.for_model(**to_hf_config(config))
    theirs = transformers.AutoModelForCausalLM.from_config(kind).model.rotary_emb.inv_freq
    positions = config.positions
    assert isinstance(positions, RopePositions)
    ours = scale_frequencies(positions.scaling, positions.theta, SIZES["head_dim"], theirs.device)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", CASES)
def test_configs_and_tensors_go_there_and_back(name: str) -> None:
    config = ModelConfig(**SIZES | CASES[name])
    again = from_hf_config(to_hf_config(config), "config.json")
    if name == "rope ntk":  # there it is a larger base
        assert again.positions.theta > config.positions.theta
        again = again.model_copy(update={"positions": config.positions})
    assert again == config.model_copy(update={"head_dim": again.head_dim})
    model = Transformer(config)
    model.init_weights(1)
    table = parts(config)
    assert set(table) == {name for name, _ in model.named_parameters()}
    for ours, pieces in table.items():
        tensor = model.get_parameter(ours)
        assert torch.equal(join(split(tensor, pieces), pieces), tensor)


def test_the_layout_follows_from_the_choices() -> None:
    kinds = {name: model_type(ModelConfig(**SIZES | CASES[name])) for name in ("qwen3", "llama", "gpt2")}
    assert kinds == {name: name for name in kinds}
