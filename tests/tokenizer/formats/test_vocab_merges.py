"""GPT-2's two files, and the superword vocabulary published in the same form."""

import gzip
import json

import pytest
import tiktoken
import tiktoken_ext.openai_public
from real_texts import assert_same_ids, fuzzed_texts, real_texts
from tokenizers import Tokenizer

from rayllm.core.errors import ConfigError, DataError
from rayllm.tokenizer.adopt import read_tokenizer
from rayllm.tokenizer.formats.byte_alphabet import BYTE_CHARS, unspell
from rayllm.tokenizer.formats.vocab_merges import from_vocab_merges
from rayllm.tokenizer.special import ordinary

VOCAB = {char: index for index, char in enumerate(BYTE_CHARS)} | {"ab": 256, "<|endoftext|>": 257}


@pytest.fixture(scope="module")
def gpt2(shared_data) -> Tokenizer:
    path = shared_data / "tokenizers/gpt2/vocab.json"
    return ordinary(Tokenizer.from_str(read_tokenizer(str(path), pattern="gpt2").decode()))


@pytest.fixture(scope="module")
def reference(shared_data) -> tiktoken.Encoding:
    """OpenAI's own definition of GPT-2's encoding, over the files that are here."""
    folder, read = shared_data / "tokenizers/gpt2", tiktoken_ext.openai_public.data_gym_to_mergeable_bpe_ranks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tiktoken_ext.openai_public,
            "data_gym_to_mergeable_bpe_ranks",
            lambda **_: read(str(folder / "merges.txt"), str(folder / "vocab.json")),
        )
        return tiktoken.Encoding(**tiktoken_ext.openai_public.gpt2())


def test_gpt2_gives_tiktokens_ids_on_real_and_fuzzed_text(gpt2, reference, shared_data):
    assert_same_ids(gpt2, reference.encode_ordinary, [*real_texts(shared_data, 300_000), *fuzzed_texts(600)])


@pytest.mark.slow
def test_gpt2_gives_tiktokens_ids_on_five_megabytes(gpt2, reference, shared_data):
    assert_same_ids(gpt2, reference.encode_ordinary, [*real_texts(shared_data, 5_000_000), *fuzzed_texts(6000)])


def test_what_no_merge_makes_is_a_special_token(gpt2):
    special = {index: token.content for index, token in gpt2.get_added_tokens_decoder().items() if token.special}
    assert special == {50_256: "<|endoftext|>"}


@pytest.fixture(scope="module")
def superwords(shared_data) -> Tokenizer:
    path = shared_data / "tokenizers/superbpe_180k/vocab.json.gz"
    special = {"<|endoftext|>": 200_000}
    return ordinary(Tokenizer.from_str(read_tokenizer(str(path), pattern="superbpe", special_tokens=special).decode()))


def test_superwords_get_the_ids_of_their_authors_example(superwords):
    # As printed for OLMo2-8B-SuperBPE-t180k in ggml-org/llama.cpp, pull request 12532.
    ids = superwords.encode("By the way, I am a fan of the Milky Way.").ids
    assert ids == [189205, 181251, 244, 4332, 180235, 199785, 13]


def test_superwords_come_back_exactly_from_real_and_fuzzed_text(superwords, shared_data):
    texts = [*real_texts(shared_data, 300_000), *fuzzed_texts(300)]
    encodings = superwords.encode_batch_fast(texts, add_special_tokens=False)
    assert [superwords.decode(found.ids, skip_special_tokens=False) for found in encodings] == texts


def test_no_published_superword_has_more_than_four_words(superwords):
    tokens = [unspell(token) for token in superwords.get_vocab(with_added_tokens=False) if token != "<|endoftext|>"]
    assert len(tokens) == 200_000
    # Its authors count spaces; the no-break space, here left out, is none of them.
    assert max(len(token.replace("\u00a0".encode(), b"").split()) for token in tokens) == 4


def test_digits_of_a_superword_vocabulary_are_cut_in_threes_from_the_right(superwords):
    assert superwords.encode("12345").tokens == ["12", "345"]


def test_the_merges_lie_beside_the_vocabulary(tmp_path):
    (tmp_path / "my-vocab.json").write_text(json.dumps(VOCAB))
    with pytest.raises(ConfigError, match=r"merges of the vocabulary are missing[\s\S]*my-merges\.txt"):
        read_tokenizer(str(tmp_path / "my-vocab.json"), pattern="gpt2")
    (tmp_path / "my-merges.txt.gz").write_bytes(gzip.compress(b"#version: 0.2\r\na b\r\n"))
    tokenizer = Tokenizer.from_str(read_tokenizer(str(tmp_path / "my-vocab.json"), pattern="gpt2").decode())
    assert tokenizer.encode("ab").ids == [256]


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        (VOCAB, "a b\nb c\n", "such as 'bc'"),
        ({token: index for token, index in VOCAB.items() if token != "a"}, "", "such as 'a'"),
        (VOCAB, "a b c\n", r"merges line 1[\s\S]*'a b c'"),
        (VOCAB | {"x!": 7}, "", "same id"),
        ([1, 2], "", "not a JSON object"),
        (VOCAB | {"x!": "7"}, "", "not a JSON object"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(vocab, merges, message):
    with pytest.raises(DataError, match=message):
        from_vocab_merges(json.dumps(vocab).encode(), merges.encode(), "gpt2", {}, "file")


def test_damaged_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="vocabulary cannot be read"):
        from_vocab_merges(b"{", b"", "gpt2", {}, "file")
    (tmp_path / "vocab.json.gz").write_bytes(gzip.compress(json.dumps(VOCAB).encode())[:-20])
    with pytest.raises(DataError, match="cannot be decompressed"):
        read_tokenizer(str(tmp_path / "vocab.json.gz"), pattern="gpt2")
