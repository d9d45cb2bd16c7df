import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rayllm.core.config import load_config
from rayllm.core.errors import ConfigError
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.model.layers.embeddings import LMHead

PRESETS = Path(__file__).resolve().parents[2] / "configs" / "model"


#: Preset → vocabulary, and the bounds of its parameters.
SIZES = {
    "tiny": (2048, 1.8e6, 2e6),
    "small": (16_384, 20e6, 40e6),
    "gpt2-124m": (50_257, 120e6, 127e6),
    "350m": (50_257, 340e6, 370e6),
    "1b": (50_257, 1.0e9, 1.4e9),
    "gpt2-small": (50_257, 124.4e6, 124.5e6),
    "gpt2-medium": (50_257, 354.8e6, 354.9e6),
    "gpt2-large": (50_257, 774.0e6, 774.1e6),
    "gpt2-xl": (50_257, 1557.6e6, 1557.7e6),
    "llama-6m": (512, 5.9e6, 6.3e6),
    "llama-42m": (32_000, 40e6, 44e6),
    "llama-124m": (50_257, 120e6, 127e6),
    "llama-1b": (128_256, 1.235e9, 1.237e9),
    "qwen3-0.6b": (151_936, 595.9e6, 596.2e6),
    "superbpe-270m": (200_000, 260e6, 280e6),
    "superbpe-0.6b": (200_000, 0.57e9, 0.63e9),
}


@pytest.mark.parametrize("preset", SIZES)
def test_presets_load_and_have_the_size_of_their_name(preset: str) -> None:
    tokenizer, low, high = SIZES[preset]
    config = load_config(str(PRESETS / f"{preset}.yaml"), ["vocab_multiple=1"], ModelConfig).with_vocab(tokenizer)
    assert low < count_parameters(config).total < high


def test_every_preset_is_checked() -> None:
    of_the_depth_dial = {path.stem for path in PRESETS.glob("nanochat*.yaml")}  # checked with it, in test_depth
    assert {path.stem for path in PRESETS.glob("*.yaml")} - of_the_depth_dial == set(SIZES)


@given(st.integers(1, 300_000), st.integers(1, 512))
def test_a_vocabulary_is_padded_to_the_next_multiple(size: int, multiple: int) -> None:
    config = ModelConfig(vocab_multiple=multiple).with_vocab(size)
    assert config.real_vocab_size == size
    assert size <= config.resolved_vocab_size < size + multiple
    assert config.resolved_vocab_size % multiple == 0
    assert config.with_vocab(size) == config


def test_a_given_vocabulary_stays_and_must_hold_the_tokenizer() -> None:
    config = ModelConfig(vocab_size=1000)
    assert config.with_vocab(990).vocab_size == 1000
    with pytest.raises(ConfigError, match=r"1,001 ids, vocab_size is 1,000"):
        config.with_vocab(1001)


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"num_heads": 6, "num_kv_heads": 4, "dim": 96}, "set num_kv_heads to one of 1, 2, 3, 6"),
        ({"dim": 100, "num_heads": 8, "num_kv_heads": 8}, "or set head_dim"),
        ({"head_dim": 15}, "set an even head_dim"),
        ({"vocab_size": 10, "real_vocab_size": 11}, "leave both out"),
        ({"init_scale": "fan_in", "init_std": 0.01}, "leave init_std out"),
        ({"embedding_rank": 256, "exportable": False}, "set it below dim"),
        ({"embedding_rank": 300, "exportable": False}, "set it below dim"),
    ],
)
def test_sizes_that_disagree_are_refused_with_the_fix(settings: dict[str, Any], fix: str) -> None:
    with pytest.raises(ValidationError, match=fix):
        ModelConfig.model_validate(settings)


def test_a_resolved_config_may_name_the_defaults_that_it_does_not_use() -> None:
    config = ModelConfig(init_scale="fan_in").with_vocab(512)
    assert ModelConfig.model_validate(config.model_dump()) == config


def test_counts_may_be_written_short() -> None:
    assert ModelConfig.model_validate({"max_seq_len": "8Ki"}).max_seq_len == 8192


def test_the_chunk_of_the_loss_is_not_part_of_what_is_trained() -> None:
    assert ModelConfig(loss_chunk_tokens=7).identity() == ModelConfig().identity()
    assert ModelConfig(dim=128).identity() != ModelConfig().identity()


@pytest.mark.parametrize(
    ("vocab", "tokens"),
    [(512, 4096), (16_384, 4096), (16_385, 4095), (32_768, 2048), (200_064, 335), (524_288, 128), (1_000_000, 128)],
)
def test_the_chunk_of_the_loss_follows_the_vocabulary(vocab: int, tokens: int) -> None:
    assert ModelConfig(vocab_size=vocab).resolved_loss_chunk_tokens == tokens
    assert ModelConfig(vocab_size=vocab, loss_chunk_tokens=300).resolved_loss_chunk_tokens == 300
    assert LMHead(ModelConfig(vocab_size=vocab, dim=8)).chunk_tokens == tokens


def test_reading_a_config_needs_no_torch() -> None:
    code = "import sys, rayllm.model.config, rayllm.model.flops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
