"""Tokenizers to compare: found in files and directories, and called by names that tell them apart."""

import pytest

from rayllm.core.errors import ConfigError
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.comparison.candidates import open_candidate, short_names, split_pattern


def test_a_directory_and_its_file_are_the_same_tokenizer(tokenizer_dir, codec: Codec):
    for source in (tokenizer_dir, tokenizer_dir / "tokenizer.json"):
        candidate = open_candidate(str(source), "ours")
        assert (candidate.name, candidate.sha256, candidate.vocab_size) == ("ours", codec.sha256, codec.vocab_size)


def test_every_format_is_opened(shared_data):
    folder = shared_data / "tokenizers"
    sizes = {
        "gpt2": 50_257,
        "gpt2/vocab.json@gpt2": 50_257,
        "llama2/tokenizer.model": 32_000,
        "tiny_2000": 2_000,  # without a separator: not for training, but to be compared
    }
    assert {name: open_candidate(f"{folder}/{name}", name).vocab_size for name in sizes} == sizes


def test_names_are_as_short_as_they_can_be():
    for written, names in (
        (["m/gpt2/tokenizer.json", "m/llama2/tokenizer.model"], ["gpt2", "llama2"]),
        (["a/x/tokenizer.json", "b/x/tokenizer.json"], ["a/x", "b/x"]),
        (["c/cl100k_base.tiktoken.gz@cl100k", "run/big.yaml"], ["cl100k_base", "big"]),
        (["s3://bucket/data/fit_tokenizer-12ab", "tokenizer.json"], ["fit_tokenizer-12ab", "tokenizer"]),
        (["same", "same"], ["same", "same"]),
    ):
        assert short_names(written) == names


def test_the_pattern_behind_a_file_is_split_off():
    assert split_pattern("a.tiktoken.gz@cl100k") == ("a.tiktoken.gz", "cl100k")
    assert split_pattern("http://me@host/tokenizer.json") == ("http://me@host/tokenizer.json", None)
    with pytest.raises(ConfigError, match="'cl200k' is not a pattern"):
        split_pattern("vocab.json@cl200k")
