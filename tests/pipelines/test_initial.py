"""Runs that begin with weights that are there: the first validation is that of the model they come from."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from packing_fixture import make_packed
from ranks import run_ranks
from safetensors.torch import save_file
from small_session import forked_run, make_config, records

from rayllm.core.artifact import Artifact
from rayllm.core.checkpoint import list_checkpoints
from rayllm.core.errors import ArtifactDamaged, ConfigError
from rayllm.corpus.documents import FileRef
from rayllm.interchange.hf_export import export_checkpoint
from rayllm.model.transformer import Transformer
from rayllm.pipelines import train
from rayllm.pipelines.train import initial
from rayllm.pipelines.train.initial import initial_fingerprint, load_initial


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_packed(tmp_path_factory.mktemp("packed"), count=120)


@pytest.fixture(scope="module")
def first(packed: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps at ZeRO 3 on two ranks."""
    root = tmp_path_factory.mktemp("first")
    engine = {"kind": "deepspeed", "zero_stage": 3}
    run_ranks(forked_run, 2, make_config(root, engine=engine), packed.uri, str(root / "run"))
    return root / "run"


def last_checkpoint(run: Path) -> str:
    return list_checkpoints(str(run / "checkpoints"))[-1].uri


def begin(init: str, packed: Artifact, root: Path, **model: Any) -> float:
    """Mean bits per byte of a new run before its first step."""
    config = make_config(root, init=init, engine={"kind": "torch"}, max_steps=2)
    config = config.model_copy(update={"model": config.model.model_copy(update=model)})
    run_ranks(forked_run, 1, config, packed.uri, str(root / "run"))
    return records(str(root / "run"), "validation")[0]["mean_bits_per_byte"]


@pytest.mark.parametrize("source", ["from_hf", "from_checkpoint"])
def test_a_run_goes_on_from_another_ones_weights(source: str, first: Path, packed: Artifact, tmp_path: Path) -> None:
    where = last_checkpoint(first)
    if source == "from_hf":
        export_checkpoint(where, str(tmp_path / "exported"))
        where = str(tmp_path / "exported")
    before = records(str(first), "validation")
    found = begin(f"{source}:{where}", packed, tmp_path)
    assert found == pytest.approx(before[12]["mean_bits_per_byte"], rel=1e-5)
    assert found < 0.9 * before[0]["mean_bits_per_byte"]


def test_another_model_is_refused_with_each_difference(first: Path, packed: Artifact, tmp_path: Path) -> None:
    config = make_config(tmp_path, init=f"from_checkpoint:{first}")
    config = config.model_copy(update={"model": config.model.model_copy(update={"dim": 64, "num_layers": 3})})
    with pytest.raises(ConfigError, match="dim: 64 here, 32 there; num_layers: 3 here, 2 there"):
        train.check(config)


def test_a_model_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no model of transformers here"):
        train.check(make_config(tmp_path, init=f"from_hf:{tmp_path}/none"))
    with pytest.raises(ConfigError):
        train.check(make_config(tmp_path, init=f"from_checkpoint:{tmp_path}/none"))


def test_another_tokenizer_is_refused(first: Path, tmp_path: Path) -> None:
    other = make_packed(tmp_path, vocab_size=400)
    config = make_config(tmp_path).model
    fewer = Transformer(config.model_copy(update={"vocab_size": 512, "real_vocab_size": 400}))
    with pytest.raises(ArtifactDamaged, match="another tokenizer"):
        load_initial(f"from_checkpoint:{first}", fewer, other.uri)
    more = Transformer(config.model_copy(update={"vocab_size": 640, "real_vocab_size": 600}))
    with pytest.raises(ConfigError, match="it has 512 ids, the tokenizer of the packed data 600"):
        load_initial(f"from_checkpoint:{first}", more, other.uri)


@pytest.fixture
def exported(first: Path, tmp_path: Path) -> Path:
    export_checkpoint(last_checkpoint(first), str(tmp_path / "exported"))
    return tmp_path / "exported"


def take_over(exported: Path, packed: Artifact, root: Path) -> None:
    model = Transformer(make_config(root).model.model_copy(update={"vocab_size": 512, "real_vocab_size": 512}))
    load_initial(f"from_hf:{exported}", model, packed.uri)


def test_a_foreign_model_with_another_tokenizer_is_refused(exported: Path, packed: Artifact, tmp_path: Path) -> None:
    other = make_packed(tmp_path / "other", vocab_size=512, count=60)
    with pytest.raises(ConfigError, match=r"another tokenizer(.|\n)*id \d+ is .* there(.|\n)*kind: adopt, from_file: "):
        take_over(exported, other, tmp_path)
    take_over(exported, packed, tmp_path)


def test_a_foreign_tokenizer_that_cuts_texts_otherwise_is_refused(
    exported: Path, packed: Artifact, tmp_path: Path
) -> None:
    content = json.loads((exported / "tokenizer.json").read_text())
    content["model"]["merges"].reverse()
    (exported / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="texts are cut otherwise"):
        take_over(exported, packed, tmp_path)


def test_how_a_foreign_tokenizer_is_written_does_not_count(exported: Path, packed: Artifact, tmp_path: Path) -> None:
    path = exported / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = [
        pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]
    ]
    content["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    special = content["added_tokens"][0]
    content["added_tokens"].append(special | {"id": 600, "content": "<|their own|>"})
    before = path.read_bytes()
    path.write_text(json.dumps(content, indent=3))
    assert path.read_bytes() != before
    take_over(exported, packed, tmp_path)


def test_a_foreign_model_without_its_tokenizer_is_warned_of(
    exported: Path, packed: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    take_over(exported, packed, tmp_path)
    assert not caplog.records
    (exported / "tokenizer.json").unlink()
    take_over(exported, packed, tmp_path)
    assert "no tokenizer.json lies beside the model" in caplog.text


def test_another_model_at_the_same_place_is_another_run(first: Path, tmp_path: Path) -> None:
    config = make_config(tmp_path, init=f"from_hf:{tmp_path}/exported")
    export_checkpoint(last_checkpoint(first), str(tmp_path / "exported"))
    before = train.fingerprint(config)
    path = tmp_path / "exported" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rope_theta": 5.0}))
    assert train.fingerprint(config) != before
    assert train.fingerprint(make_config(tmp_path)) == {}


def write_weights(directory: Path, value: float) -> str:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    save_file({"a": torch.full((4,), value)}, directory / "model.safetensors")
    return f"from_hf:{directory}"


def test_other_weights_of_the_same_model_are_another_run(tmp_path: Path) -> None:
    zeros, ones = (initial_fingerprint(write_weights(tmp_path / str(value), value)) for value in (0.0, 1.0))
    assert zeros != ones
    assert initial_fingerprint(write_weights(tmp_path / "copy", 1.0)) == ones
    path = tmp_path / "copy" / "model.safetensors"
    save_file({"a": torch.zeros(4)}, path)
    os.utime(path, ns=(0, 0))  # a clock may tick too slowly for two writes of a test
    assert initial_fingerprint(f"from_hf:{tmp_path}/copy") == zeros


def test_weights_are_read_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(initial, "sha256_file", lambda uri: read.append(uri) or "hash")
    init = write_weights(tmp_path / "model", 1.0)
    assert initial_fingerprint(init) == initial_fingerprint(init)
    assert read == [f"{tmp_path}/model/model.safetensors"]


def test_of_remote_weights_the_mark_of_their_storage_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initial, "sha256_file", lambda uri: f"hash of {uri}")
    marked = FileRef(uri="s3://bucket/a.safetensors", label="", bytes=8, version="etag")
    assert initial._mark(marked) == "etag"
    assert initial._mark(marked.model_copy(update={"version": ""})) == "hash of s3://bucket/a.safetensors"
