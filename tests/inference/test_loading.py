import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from rayllm.core.errors import ArtifactDamaged, ConfigError
from rayllm.inference.loading import load_checkpoint
from rayllm.model.transformer import Transformer

Seal = Callable[[Path], None]


def test_the_model_comes_back_as_it_was_saved(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    saved = load_file(checkpoint / "model.safetensors")
    assert {name for name, _ in loaded.model.named_parameters()} == set(saved)
    assert all(torch.equal(parameter, saved[name]) for name, parameter in loaded.model.named_parameters())
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert not loaded.model.training
    assert loaded.state["step"] == 7
    assert loaded.model.config.real_vocab_size == loaded.codec.vocab_size


def test_a_loaded_model_computes_as_a_fresh_one_with_its_seed(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    fresh = Transformer(loaded.model.config)
    fresh.init_weights(3)
    ids = torch.arange(20).view(1, 20)
    assert torch.equal(loaded.model.logits(ids), fresh.logits(ids))


def test_the_state_of_the_optimiser_is_not_read(checkpoint: Path, seal: Seal) -> None:
    (checkpoint / "state").mkdir()
    (checkpoint / "state" / "rank-00000.safetensors").write_bytes(b"moments")
    seal(checkpoint)
    (checkpoint / "state" / "rank-00000.safetensors").unlink()
    assert load_checkpoint(str(checkpoint)).state["step"] == 7


def test_a_loaded_model_can_be_trained(checkpoint: Path) -> None:
    model = load_checkpoint(str(checkpoint)).model
    ids = torch.arange(20).view(1, 20)
    model(ids, ids).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_a_run_a_checkpoints_directory_and_a_checkpoint_name_the_same(checkpoint: Path, levels: int) -> None:
    uri = [checkpoint, *checkpoint.parents][levels]
    assert load_checkpoint(str(uri)).uri == str(checkpoint)


def test_weights_can_be_cast_on_the_way(checkpoint: Path) -> None:
    model = load_checkpoint(str(checkpoint), dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_checkpoint_loads_from_an_object_store(checkpoint: Path) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(checkpoint), "/models/step-00000007-a1", recursive=True)
    try:
        remote = load_checkpoint("memory://models/step-00000007-a1")
    finally:
        store.rm("/models", recursive=True)
    ids = torch.arange(20).view(1, 20)
    assert torch.equal(remote.model.logits(ids), load_checkpoint(str(checkpoint)).model.logits(ids))


def test_a_flipped_byte_is_found(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactDamaged, match=r"model\.safetensors has other content"):
        load_checkpoint(str(checkpoint))


def test_a_directory_without_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint here"):
        load_checkpoint(str(tmp_path))


def test_weights_of_another_model_are_refused_by_name(checkpoint: Path, seal: Seal) -> None:
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    weights["model.extra.weight"] = weights.pop("model.norm.weight")
    save_file(weights, path)
    seal(checkpoint)
    with pytest.raises(ArtifactDamaged, match=r"model\.norm\.weight is missing \(and 1 more\)"):
        load_checkpoint(str(checkpoint))


def test_weights_of_another_size_are_refused(checkpoint: Path, seal: Seal) -> None:
    sizes = json.loads((checkpoint / "model.json").read_text())
    (checkpoint / "model.json").write_text(json.dumps(sizes | {"ffn_dim": 64}))
    seal(checkpoint)
    with pytest.raises(ArtifactDamaged, match=r"has shape \(96, 32\), not \(128, 32\)"):
        load_checkpoint(str(checkpoint))


def test_a_tokenizer_of_another_size_is_refused(checkpoint: Path, seal: Seal) -> None:
    sizes = json.loads((checkpoint / "model.json").read_text())
    (checkpoint / "model.json").write_text(json.dumps(sizes | {"real_vocab_size": 290}))
    seal(checkpoint)
    with pytest.raises(ArtifactDamaged, match="made for 290 ids, the tokenizer has 300"):
        load_checkpoint(str(checkpoint))


def test_sizes_that_cannot_be_read_are_named(checkpoint: Path, seal: Seal) -> None:
    (checkpoint / "model.json").write_text('{"width": 3}')
    seal(checkpoint)
    with pytest.raises(ArtifactDamaged, match="width is not known here"):
        load_checkpoint(str(checkpoint))


def test_a_setting_that_only_another_version_knows_is_named(checkpoint: Path, seal: Seal) -> None:
    sizes = json.loads((checkpoint / "model.json").read_text())
    sizes["positions"]["period"] = sizes["positions"].pop("theta", 1)
    (checkpoint / "model.json").write_text(json.dumps(sizes))
    seal(checkpoint)
    with pytest.raises(ArtifactDamaged, match=r"positions\.\w*\.?period is not known here"):
        load_checkpoint(str(checkpoint))
