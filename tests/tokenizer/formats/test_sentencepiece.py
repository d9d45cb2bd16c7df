"""SentencePiece models give SentencePiece's ids."""

import struct

import pytest
import sentencepiece
from real_texts import assert_same_ids, fuzzed_texts, real_texts
from tokenizers import Tokenizer

from rayllm.core.errors import DataError
from rayllm.tokenizer.adopt import check_tokenizer, read_tokenizer
from rayllm.tokenizer.formats.sentencepiece import Kind, from_sentencepiece, read_model
from rayllm.tokenizer.special import ordinary

#: What CodeLlama has behind Llama 2's 32,000 pieces, in its order: parts first, then the marks of infilling.
CODE_PIECES = ["▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]


def message(number: int, value: bytes) -> bytes:
    """A field of bytes of a protocol buffer."""
    size, length = b"", len(value)
    while length >= 0x80:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + value


def piece(text: str, score: float, kind: Kind = Kind.NORMAL) -> bytes:
    return message(1, message(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind]))


@pytest.fixture(scope="module")
def llama_model(shared_data) -> bytes:
    return (shared_data / "tokenizers/llama2/tokenizer.model").read_bytes()


@pytest.fixture(scope="module")
def llama(shared_data) -> Tokenizer:
    return ordinary(Tokenizer.from_str(read_tokenizer(str(shared_data / "tokenizers/llama2/tokenizer.model")).decode()))


@pytest.fixture(scope="module")
def reference(llama_model) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=llama_model)


def test_llama2_gives_sentencepieces_ids_on_real_and_fuzzed_text(llama, reference, shared_data):
    assert_same_ids(llama, reference.encode, [*real_texts(shared_data, 300_000), *fuzzed_texts(600)])


@pytest.mark.slow
def test_llama2_gives_sentencepieces_ids_on_five_megabytes(llama, reference, shared_data):
    assert_same_ids(llama, reference.encode, [*real_texts(shared_data, 5_000_000), *fuzzed_texts(6000)])


def test_a_model_with_pieces_added_like_codellamas_gives_sentencepieces_ids(llama_model, shared_data):
    extended = llama_model + b"".join(
        piece(text, -(32_000.0 - 259 + number)) for number, text in enumerate(CODE_PIECES)
    )
    ours = ordinary(Tokenizer.from_str(from_sentencepiece(extended, "model").decode()))
    theirs = sentencepiece.SentencePieceProcessor(model_proto=extended)
    assert ours.get_vocab_size() == theirs.vocab_size() == 32_011
    texts = ["def f(): <PRE> x <SUF>y <MID>", "<PRE><EOT>", " <M <MI", *real_texts(shared_data, 100_000)]
    assert_same_ids(ours, theirs.encode, [*texts, *fuzzed_texts(100)])
    assert 32_007 in ours.encode(" <PRE> ").ids


def test_texts_come_back_and_the_end_of_text_is_found(llama):
    assert check_tokenizer(llama.to_str().encode(), "llama", None) == "</s>"
    for text in ("", " a", "  two", "naïve 日本\n\x00 end ", "<s></s><unk>"):
        assert llama.decode(llama.encode(text).ids, skip_special_tokens=False) == text


def test_the_reader_sees_what_the_library_sees(llama_model, reference):
    model = read_model(llama_model, "model")
    assert [item.text for item in model.pieces] == [reference.id_to_piece(i) for i in range(reference.vocab_size())]
    assert [item.score for item in model.pieces] == [reference.get_score(i) for i in range(reference.vocab_size())]
    assert (model.pieces[0].kind, model.pieces[2].kind, model.pieces[3].kind) == (
        Kind.UNKNOWN,
        Kind.CONTROL,
        Kind.BYTE,
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (piece("[user]", 0.0, Kind.USER_DEFINED), "user-defined"),
        (piece("zzzz", 0.0, Kind.UNUSED), "unused"),
        (piece("</s>", 0.0), "two of its pieces are the same"),
        (message(2, bytes([3 << 3, 1])), "not BPE"),
        (message(2, bytes([3 << 3, 2])), "no byte fallback"),
        (message(3, message(2, b"charsmap")), "normaliser changes texts"),
    ],
)
def test_what_the_other_format_lacks_is_refused(llama_model, more, why):
    with pytest.raises(DataError, match=why):
        from_sentencepiece(llama_model + more, "model")


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a model at all", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"])
def test_what_is_no_model_is_refused(data):
    with pytest.raises(DataError, match="not a SentencePiece model"):
        from_sentencepiece(data, "file")


def test_half_a_model_is_refused(llama_model):
    with pytest.raises(DataError):
        from_sentencepiece(llama_model[: len(llama_model) // 2 + 3], "file")
