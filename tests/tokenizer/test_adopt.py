"""A tokenizer made elsewhere is taken as it is, or refused for a reason."""

import hashlib

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from rayllm.core.errors import ArtifactDamaged, ConfigError, DataError
from rayllm.tokenizer.adopt import check_tokenizer, read_tokenizer


def test_gpt2_and_llama2_are_taken_byte_for_byte(shared_data):
    for name in ("gpt2", "llama2"):
        path = shared_data / "tokenizers" / name / "tokenizer.json"
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert read_tokenizer(str(path), expected_sha256=sha256) == path.read_bytes()


def test_another_hash_blocks(tokenizer_dir):
    with pytest.raises(ArtifactDamaged, match="another tokenizer"):
        read_tokenizer(str(tokenizer_dir / "tokenizer.json"), expected_sha256="0" * 64)


def test_a_missing_file_names_the_setting(tmp_path):
    with pytest.raises(ConfigError, match=r"fit_tokenizer\.from_file"):
        read_tokenizer(str(tmp_path / "tokenizer.json"))


def test_a_tokenizer_without_end_of_text_is_refused(shared_data):
    with pytest.raises(DataError, match="can separate documents"):
        check_tokenizer((shared_data / "tokenizers/tiny_2000/tokenizer.json").read_bytes(), "tiny", None)


def test_a_tokenizer_that_lowers_case_is_refused(tokenizer_dir, tmp_path):
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="'Leading spac' came back as 'leading spac'"):
        check_tokenizer((tmp_path / "tokenizer.json").read_bytes(), "file", None)


def test_word_pieces_are_refused(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "</s>": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="WordPiece"):
        check_tokenizer((tmp_path / "tokenizer.json").read_bytes(), "file", None)
