"""tiktoken files give tiktoken's ids."""

import base64
import gzip

import pytest
import tiktoken
import tiktoken_ext.openai_public
from real_texts import assert_same_ids, fuzzed_texts, real_texts
from tokenizers import Tokenizer

from rayllm.core.errors import ConfigError, DataError
from rayllm.tokenizer.adopt import read_tokenizer
from rayllm.tokenizer.formats.tiktoken import from_tiktoken, read_ranks
from rayllm.tokenizer.special import ordinary

BYTES = b"".join(base64.b64encode(bytes([byte])) + f" {byte}\n".encode() for byte in range(256))


def line(token: bytes, rank: int) -> bytes:
    return base64.b64encode(token) + f" {rank}\n".encode()


@pytest.fixture(scope="module")
def cl100k(shared_data) -> Tokenizer:
    path = shared_data / "tokenizers/cl100k_base.tiktoken.gz"
    return ordinary(Tokenizer.from_str(read_tokenizer(str(path), pattern="cl100k").decode()))


@pytest.fixture(scope="module")
def reference(shared_data) -> tiktoken.Encoding:
    """OpenAI's own definition of cl100k, over the ranks that are here."""
    ranks = read_ranks(gzip.decompress((shared_data / "tokenizers/cl100k_base.tiktoken.gz").read_bytes()), "cl100k")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)
        return tiktoken.Encoding(**tiktoken_ext.openai_public.cl100k_base())


def test_cl100k_gives_tiktokens_ids_on_real_and_fuzzed_text(cl100k, reference, shared_data):
    assert_same_ids(cl100k, reference.encode_ordinary, [*real_texts(shared_data, 300_000), *fuzzed_texts(600)])


@pytest.mark.slow
def test_cl100k_gives_tiktokens_ids_on_five_megabytes(cl100k, reference, shared_data):
    assert_same_ids(cl100k, reference.encode_ordinary, [*real_texts(shared_data, 5_000_000), *fuzzed_texts(6000)])


def test_special_tokens_have_their_published_ids(cl100k, reference):
    for name in reference.special_tokens_set:
        assert cl100k.token_to_id(name) == reference.encode_single_token(name)


def test_a_piece_that_is_a_token_is_taken_whole_and_others_by_rank():
    data = BYTES + line(b"ab", 256) + line(b"bc", 257) + line(b"abc", 258) + line(b"xyz", 259)
    tokenizer = Tokenizer.from_str(from_tiktoken(data, "gpt2", {"<|end|>": 300}, "file").decode())
    assert tokenizer.encode("abc").ids == [258]
    assert tokenizer.encode("xyz").ids == [259], "no merge makes it, but it is a token"
    assert tokenizer.encode("xyzbc").ids == [ord("x"), ord("y"), ord("z"), 257]
    assert tokenizer.token_to_id("<|end|>") == 300


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (BYTES + b"no base64! 256\n", r"file, line 257"),
        (BYTES + b"QUI=\n", r"file, line 257"),
        (BYTES + line(b"ab", 17), "same rank"),
        (b"", "0x00 has no rank"),
    ],
)
def test_a_broken_file_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        from_tiktoken(data, "gpt2", {}, "file")


def test_bytes_that_no_text_holds_may_lack():
    data = b"".join(BYTES.splitlines(keepends=True)[:-1])
    assert Tokenizer.from_str(from_tiktoken(data, "gpt2", {}, "file").decode()).encode("a").ids == [97]


def test_a_special_token_cannot_take_an_id_that_is_in_use():
    with pytest.raises(DataError, match=r"cannot have the id 65[\s\S]*such as 256"):
        from_tiktoken(BYTES, "gpt2", {"<|end|>": 65}, "file")


def test_the_pattern_is_asked_for(shared_data, tmp_path):
    (tmp_path / "x.tiktoken").write_bytes(BYTES)
    with pytest.raises(ConfigError, match="does not say how texts are cut"):
        read_tokenizer(str(tmp_path / "x.tiktoken"))
    with pytest.raises(ConfigError, match="'cl100' is not a pattern; known: gpt2, cl100k"):
        read_tokenizer(str(tmp_path / "x.tiktoken"), pattern="cl100")
    with pytest.raises(ConfigError, match="not a regular expression"):
        read_tokenizer(str(tmp_path / "x.tiktoken"), pattern="(a")
    with pytest.raises(ConfigError, match="says itself"):
        read_tokenizer(str(shared_data / "tokenizers/gpt2/tokenizer.json"), pattern="gpt2")
