"""A small checkpoint of real files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from rayllm.core.artifact import record_files
from rayllm.core.checkpoint import COMMIT, Commit, write_rank_manifest
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

TEXT = "the quick brown fox jumps over the lazy dog and naïve café owners, 12345 times. "


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """The files of a tokenizer of some 300 tokens."""
    directory = tmp_path / "tokenizer"
    directory.mkdir()
    data = train_bpe(iter([TEXT * 20]), vocab_size=300, min_frequency=1, max_digits=2, num_reserved=2)
    freeze(data, str(directory))
    return directory


@pytest.fixture
def as_checkpoint(tokenizer: Path, tmp_path: Path) -> Callable[[Transformer], Path]:
    """Commits a model with that tokenizer as one rank does, as ``step-00000007-a1``."""

    def commit(model: Transformer) -> Path:
        directory = tmp_path / "checkpoints" / "step-00000007-a1"
        shutil.copytree(tokenizer, directory)
        save_file({name: weight.detach() for name, weight in model.named_parameters()}, directory / "model.safetensors")
        (directory / "model.json").write_text(model.config.model_dump_json())
        (directory / "run.yaml").write_text(yaml.safe_dump({"name": "small", "train": {"precision": "fp32"}}))
        (directory / "state.json").write_text(json.dumps({"step": 7, "tokens": 1000, "domain_tokens": {"web": 1000}}))
        names = [path.name for path in directory.iterdir()]
        manifest = write_rank_manifest(str(directory), 0, record_files(str(directory), names))
        sealed = Commit(step=7, attempt=1, world_size=1, manifests=[manifest])
        (directory / COMMIT).write_text(sealed.model_dump_json())
        return directory

    return commit


@pytest.fixture
def checkpoint(tokenizer: Path, as_checkpoint: Callable[[Transformer], Path]) -> Path:
    """``step-00000007-a1`` with a tiny model whose vocabulary is padded."""
    config = ModelConfig(dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=64, init_std=0.2)
    model = Transformer(config.with_vocab(Codec.load(str(tokenizer)).vocab_size))
    model.init_weights(3)
    with torch.no_grad():
        model.model.norm.weight.mul_(3)
    return as_checkpoint(model)
