"""How Hugging Face's transformers store the models that ours can be: names, splits and config keys.

In: a ``ModelConfig`` or the content of a ``config.json``. Out: the other one, and for each of our parameters the parts
that it is made of there. Export and import walk the same table, so they cannot disagree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rayllm.core.errors import ConfigError
from rayllm.model.config import ModelConfig, export_obstacles
from rayllm.model.layers.positions import ntk_theta
from rayllm.model.position_config import (
    LearnedPositions,
    LinearScaling,
    Llama3Scaling,
    NTKScaling,
    RopePositions,
    RopeScaling,
    YarnScaling,
)

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}


@dataclass(frozen=True)
class Part:
    """One tensor of theirs inside one of ours.

    Attributes:
        name: Its name there.
        rows: How many of our rows (or entries) it holds; the parts of a parameter follow each other.
        transposed: Whether it is stored with inputs first (GPT-2's ``Conv1D``).
    """

    name: str
    rows: int
    transposed: bool = False


def model_type(config: ModelConfig) -> str:
    """The layout that holds a model.

    Raises:
        ConfigError: If none does, naming what is in the way.
    """
    if obstacles := export_obstacles(config):
        raise ConfigError(
            "this model cannot be stored in a layout of transformers",
            where="model",
            why=f"no class there has {'; '.join(obstacles)}",
            fix="use the checkpoint with rayllm itself, or train with choices that can be exported",
        )
    if config.positions.kind == "learned":
        return "gpt2"
    return "llama" if config.qk_norm == "none" else "qwen3"


def parts(config: ModelConfig) -> dict[str, list[Part]]:
    """For each of our parameters, in their order, what it consists of there; a shared output matrix is left out."""
    return _gpt2_parts(config) if model_type(config) == "gpt2" else _llama_parts(config)


def split(tensor: Tensor, pieces: list[Part]) -> dict[str, Tensor]:
    """One of our parameters as theirs."""
    tensors = tensor.split([piece.rows for piece in pieces])
    return {
        piece.name: (part.t() if piece.transposed else part).contiguous()
        for piece, part in zip(pieces, tensors, strict=True)
    }


def join(tensors: Mapping[str, Tensor], pieces: list[Part]) -> Tensor:
    """Their tensors as one of ours."""
    found = [tensors[piece.name].t() if piece.transposed else tensors[piece.name] for piece in pieces]
    return found[0].contiguous() if len(found) == 1 else torch.cat(found)


def _llama_parts(config: ModelConfig) -> dict[str, list[Part]]:
    """Llama and Qwen3: our names, with fused matrices apart."""
    vocab, kinds = config.resolved_vocab_size, ["weight", "bias"] if config.bias else ["weight"]
    table = {"model.embed_tokens.weight": [Part("model.embed_tokens.weight", vocab)]}
    for layer in range(config.num_layers):
        block = f"model.layers.{layer}."
        table |= _same([block + "input_layernorm.weight", block + "post_attention_layernorm.weight"], config.dim)
        for kind in kinds:
            widths = {"q": config.query_dim, "k": config.kv_dim, "v": config.kv_dim}
            table[f"{block}self_attn.qkv_proj.{kind}"] = [
                Part(f"{block}self_attn.{name}_proj.{kind}", width) for name, width in widths.items()
            ]
            table[f"{block}mlp.gate_up_proj.{kind}"] = [
                Part(f"{block}mlp.{name}_proj.{kind}", config.ffn_dim) for name in ("gate", "up")
            ]
            table |= _same([f"{block}self_attn.o_proj.{kind}", f"{block}mlp.down_proj.{kind}"], config.dim)
        if config.qk_norm == "weighted":
            norms = [block + "self_attn.q_norm.weight", block + "self_attn.k_norm.weight"]
            table |= _same(norms, config.resolved_head_dim)
    table |= _same(["model.norm.weight"], config.dim)
    return table if config.tie_embeddings else table | _same(["lm_head.weight"], vocab)


def _same(names: list[str], rows: int) -> dict[str, list[Part]]:
    return {name: [Part(name, rows)] for name in names}


def _gpt2_parts(config: ModelConfig) -> dict[str, list[Part]]:
    """GPT-2: names of its own, matrices with inputs first."""
    vocab, ffn = config.resolved_vocab_size, config.ffn_dim
    table = {
        "model.embed_tokens.weight": [Part("transformer.wte.weight", vocab)],
        "model.embed_positions.weight": [Part("transformer.wpe.weight", config.max_seq_len)],
    }
    for layer in range(config.num_layers):
        ours, theirs = f"model.layers.{layer}.", f"transformer.h.{layer}."
        for kind in ("weight", "bias"):
            turned = kind == "weight"
            linear = {
                "self_attn.qkv_proj": ("attn.c_attn", 3 * config.dim),
                "self_attn.o_proj": ("attn.c_proj", config.dim),
                "mlp.up_proj": ("mlp.c_fc", ffn),
                "mlp.down_proj": ("mlp.c_proj", config.dim),
            }
            for name, (there, rows) in linear.items():
                table[f"{ours}{name}.{kind}"] = [Part(f"{theirs}{there}.{kind}", rows, turned)]
            for name, there in {"input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}.items():
                table[f"{ours}{name}.{kind}"] = [Part(f"{theirs}{there}.{kind}", config.dim)]
    for kind in ("weight", "bias"):
        table[f"model.norm.{kind}"] = [Part(f"transformer.ln_f.{kind}", config.dim)]
    return table if config.tie_embeddings else table | _same(["lm_head.weight"], vocab)


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """The content of ``config.json``, for transformers before and after version 5 (both spellings where they differ).

    Raises:
        ConfigError: If no layout holds the model.
    """
    kind = model_type(config)
    shared = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.resolved_vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
    }
    return shared | (_gpt2_config(config) if kind == "gpt2" else _llama_config(config, kind))


def _gpt2_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_embd": config.dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.ffn_dim,
        "n_positions": config.max_seq_len,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    }


def _llama_config(config: ModelConfig, kind: str) -> dict[str, Any]:
    rope = config.positions
    assert isinstance(rope, RopePositions)
    theta, scaling = _to_rope(rope, config.resolved_head_dim)
    found: dict[str, Any] = {
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.resolved_head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std,
        "attention_bias": config.bias,
        "attention_dropout": 0.0,
        "rope_theta": theta,
        "rope_scaling": None if scaling["rope_type"] == "default" else scaling,
        "rope_parameters": {"rope_theta": theta, **scaling},
    }
    if kind == "llama":
        return found | {"mlp_bias": config.bias}
    windows = [config.window_of(layer) for layer in range(config.num_layers)]
    narrow = any(window is not None for window in windows)
    kinds = ["full_attention" if window is None else "sliding_attention" for window in windows]
    return found | {
        "use_sliding_window": narrow,
        "sliding_window": config.window if narrow else None,
        "max_window_layers": config.num_layers,
        "layer_types": kinds,
    }


def _to_rope(rope: RopePositions, head_dim: int) -> tuple[float, dict[str, Any]]:
    """Base and ``rope_scaling``; NTK is a larger base."""
    match rope.scaling:
        case None:
            return rope.theta, {"rope_type": "default"}
        case NTKScaling(factor=factor):
            return ntk_theta(rope.theta, factor, head_dim), {"rope_type": "default"}
        case LinearScaling(factor=factor):
            return rope.theta, {"rope_type": "linear", "factor": factor}
        case YarnScaling() as yarn:
            return rope.theta, {
                "rope_type": "yarn",
                "factor": yarn.factor,
                "original_max_position_embeddings": yarn.original_max_seq_len,
                "beta_fast": yarn.beta_fast,
                "beta_slow": yarn.beta_slow,
            }
        case Llama3Scaling() as llama3:
            return rope.theta, {
                "rope_type": "llama3",
                "factor": llama3.factor,
                "original_max_position_embeddings": llama3.original_max_seq_len,
                "low_freq_factor": llama3.low_freq_factor,
                "high_freq_factor": llama3.high_freq_factor,
            }


def from_hf_config(content: Mapping[str, Any], where: str) -> ModelConfig:
    """Sizes and choices of a model, from its ``config.json``.

    Args:
        content: The parsed file.
        where: Its URI, for errors.

    Raises:
        ConfigError: If it is another kind of model, uses something that ours has not, or lacks a key.
    """
    kind = content.get("model_type")
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"models of type {kind!r} cannot be imported",
            where=where,
            fix=f"import one of type {', '.join(ARCHITECTURES)}",
        )
    unheld = _unheld(content)
    if unheld:
        raise ConfigError(
            "this model uses something that rayllm's has not", where=where, why="; ".join(unheld), fix="import another"
        )
    try:
        return _from_gpt2(content) if kind == "gpt2" else _from_llama(content)
    except KeyError as error:  # both only look up keys of the file
        raise ConfigError(
            "the config of this model is incomplete",
            where=where,
            why=f"it has no {error.args[0]}",
            fix=f"add {error.args[0]} to the file, or download it again",
        ) from error


def _unheld(content: Mapping[str, Any]) -> list[str]:
    """Settings that would be lost: each with the values that can be kept."""
    kept: dict[str, tuple[Any, ...]] = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "hidden_act": ("silu", "swish"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
        "add_cross_attention": (False,),
        "attention_bias": (bool(content.get("mlp_bias", False)),),
        "partial_rotary_factor": (1.0, None),
        "truncate": (True, None),
    }
    found = {**content, **_rope_of(content)}
    return [f"{name}: {found[name]}" for name, values in kept.items() if name in found and found[name] not in values]


def _rope_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of rotary positions, by the key of either version of transformers."""
    return dict(content.get("rope_parameters") or {}) or dict(content.get("rope_scaling") or {})


def _from_gpt2(content: Mapping[str, Any]) -> ModelConfig:
    dim, heads = content["n_embd"], content["n_head"]
    return ModelConfig(
        vocab_size=content["vocab_size"],
        dim=dim,
        num_layers=content["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        ffn_dim=content.get("n_inner") or 4 * dim,
        max_seq_len=content["n_positions"],
        positions=LearnedPositions(),
        feed_forward="gelu",
        norm="layernorm",
        norm_eps=content.get("layer_norm_epsilon", 1e-5),
        qk_norm="none",
        bias=True,
        tie_embeddings=content.get("tie_word_embeddings", True),
        init_std=content.get("initializer_range", 0.02),
    )


def _from_llama(content: Mapping[str, Any]) -> ModelConfig:
    heads, qwen3 = content["num_attention_heads"], content["model_type"] == "qwen3"
    windows: dict[str, Any] = {}
    if content.get("use_sliding_window") and content.get("sliding_window"):
        windows = {"window": content["sliding_window"], "global_every": _global_every(content)}
    return ModelConfig(
        vocab_size=content["vocab_size"],
        dim=content["hidden_size"],
        num_layers=content["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=content.get("num_key_value_heads") or heads,
        head_dim=content.get("head_dim") or (128 if qwen3 else None),
        ffn_dim=content["intermediate_size"],
        max_seq_len=content["max_position_embeddings"],
        positions=_from_rope(content),
        norm_eps=content.get("rms_norm_eps", 1e-6),
        qk_norm="weighted" if qwen3 else "none",
        bias=content.get("attention_bias", False),
        tie_embeddings=content.get("tie_word_embeddings", False),
        init_std=content.get("initializer_range", 0.02),
        **windows,
    )


def _global_every(content: Mapping[str, Any]) -> int:
    """Our spacing of layers that see all.

    Raises:
        ConfigError: If the layers with a window do not repeat evenly.
    """
    layers = content["num_hidden_layers"]
    kinds = content.get("layer_types") or [
        "sliding_attention" if layer >= content.get("max_window_layers", 0) else "full_attention"
        for layer in range(layers)
    ]
    full = [layer + 1 for layer, kind in enumerate(kinds) if kind == "full_attention"]
    every = full[0] if full else layers + 1
    if full != list(range(every, layers + 1, every)):
        raise ConfigError(
            "layers with a sliding window do not repeat evenly",
            where="layer_types",
            why=f"layers {full} of {layers} see all",
            fix="import a model in which every so many layers one sees all",
        )
    return every


def _from_rope(content: Mapping[str, Any]) -> RopePositions:
    found = _rope_of(content)
    theta = found.get("rope_theta") or content.get("rope_theta", 10_000.0)
    return RopePositions(theta=theta, scaling=_from_scaling(found))


def _from_scaling(found: Mapping[str, Any]) -> RopeScaling | None:
    match found.get("rope_type", found.get("type", "default")):
        case "default":
            return None
        case "linear":
            return LinearScaling(factor=found["factor"])
        case "yarn" if found.get("attention_factor") is None and "mscale" not in found:
            return YarnScaling(
                factor=found["factor"],
                original_max_seq_len=found["original_max_position_embeddings"],
                beta_fast=found.get("beta_fast") or 32.0,
                beta_slow=found.get("beta_slow") or 1.0,
            )
        case "llama3":
            return Llama3Scaling(
                factor=found["factor"],
                original_max_seq_len=found["original_max_position_embeddings"],
                low_freq_factor=found["low_freq_factor"],
                high_freq_factor=found["high_freq_factor"],
            )
        case other:
            raise ConfigError(
                f"rope_scaling of type {other!r} cannot be imported",
                where="rope_scaling",
                why=f"it is {dict(found)}",
                fix="import a model with default, linear, yarn or llama3 scaling",
            )
