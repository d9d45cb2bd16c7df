"""Frozen files belong together or are refused."""

import hashlib
import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from rayllm.core.errors import ArtifactDamaged
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import FILES, copy_frozen, freeze, read_frozen


@pytest.fixture
def damaged(tokenizer_dir, tmp_path):
    copy_frozen(str(tokenizer_dir), str(tmp_path))
    return tmp_path


def test_a_copy_is_the_same_tokenizer(damaged, codec):
    assert sorted(path.name for path in damaged.iterdir()) == sorted(FILES)
    assert Codec.load(str(damaged), codec.sha256).encode("The mat") == codec.encode("The mat")


def test_freezing_returns_the_hash_of_the_file(tokenizer_dir, tmp_path):
    data = (tokenizer_dir / "tokenizer.json").read_bytes()
    assert freeze(data, str(tmp_path)) == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "tokenizer.json").read_bytes() == data


@pytest.mark.parametrize("name", ["tokenizer.json", "token_bytes.npy"])
def test_a_missing_file_is_named(damaged, name):
    (damaged / name).unlink()
    with pytest.raises(ArtifactDamaged, match=f"{name} is missing"):
        read_frozen(str(damaged))


def test_a_file_that_is_no_tokenizer_is_named(damaged):
    (damaged / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(ArtifactDamaged, match="cannot be read"):
        read_frozen(str(damaged))


def test_byte_counts_of_another_vocabulary_are_refused(damaged, codec):
    np.save(damaged / "token_bytes.npy", codec.token_bytes[:-1])
    with pytest.raises(ArtifactDamaged, match="do not belong together"):
        read_frozen(str(damaged))
    np.save(damaged / "token_bytes.npy", codec.token_bytes.astype(np.int64))
    with pytest.raises(ArtifactDamaged, match="int64"):
        read_frozen(str(damaged))


def test_truncated_byte_counts_are_refused(damaged):
    path = damaged / "token_bytes.npy"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ArtifactDamaged, match=r"token_bytes\.npy"):
        read_frozen(str(damaged))


def test_transformers_opens_the_files_and_gives_the_same_ids(tokenizer_dir, codec):
    theirs = AutoTokenizer.from_pretrained(str(tokenizer_dir))
    text = "The cat sat, naïvely: 12345\n"
    assert theirs(text)["input_ids"] == codec.encode(text)
    assert (theirs.eos_token_id, theirs.pad_token) == (codec.separator_id, "<|pad|>")
    assert json.loads((tokenizer_dir / "tokenizer_config.json").read_text())["clean_up_tokenization_spaces"] is False
