"""A SentencePiece BPE model with byte fallback (Llama 2, CodeLlama, Mistral) as a ``tokenizer.json``.

The ``.model`` file is a protocol buffer; the few fields that matter are read here, without a library. Spaces become
``▁``, one is put before the text where the model says so, neighbours whose joint text is a piece are merged by its
score, and characters outside the vocabulary become bytes. What a ``tokenizer.json`` cannot express exactly is refused.

Source: google/sentencepiece, ``sentencepiece_model.proto`` and ``bpe_model.cc``; Kudo and Richardson 2018,
arXiv:1808.06226.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from tokenizers import decoders, normalizers

from rayllm.core.errors import DataError
from rayllm.tokenizer.formats.tokenizer_json import BpeParts, to_tokenizer_json
from rayllm.tokenizer.token_bytes import SPACE_MARK

BPE_MODEL = 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Kind(IntEnum):
    """What a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """An entry of the vocabulary; its id is its place. Of two pieces the one with the higher score is merged first."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class Model:
    """The fields of a model file that decide its ids."""

    pieces: list[Piece]
    model_type: int
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


def from_sentencepiece(data: bytes, where: str) -> bytes:
    """Convert a ``tokenizer.model``.

    Raises:
        DataError: If it cannot be read, or has something that the other format lacks (unigram models, normalisation
            of characters, user-defined symbols).
    """
    model = read_model(data, where)
    if problem := _problem(model):
        raise DataError(
            "this SentencePiece model cannot be taken over exactly",
            where=where,
            why=problem,
            fix="use a BPE model with byte fallback and no normalisation (Llama 2, CodeLlama, Mistral)",
        )
    vocab = {piece.text: index for index, piece in enumerate(model.pieces)}
    unknown = next((piece.text for piece in model.pieces if piece.kind is Kind.UNKNOWN), None)
    prefix = [normalizers.Prepend(SPACE_MARK)] if model.add_dummy_prefix else []
    strip = [decoders.Strip(" ", 1, 0)] if model.add_dummy_prefix else []
    parts = BpeParts(
        vocab=vocab,
        merges=list(_merges(model.pieces)),
        special=[piece.text for piece in model.pieces if piece.kind in (Kind.UNKNOWN, Kind.CONTROL)],
        normalizer=normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE_MARK)]),
        decoder=decoders.Sequence(
            [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        ),
        byte_fallback=True,
        unknown=unknown,
    )
    return to_tokenizer_json(parts)


def _problem(model: Model) -> str:
    """Why a model cannot be converted exactly; empty if it can."""
    kinds = {piece.kind for piece in model.pieces}
    if model.model_type != BPE_MODEL:
        return "its type is not BPE"
    if not model.byte_fallback or sum(piece.kind is Kind.BYTE for piece in model.pieces) != 256:
        return "it has no byte fallback, so text outside its vocabulary is lost"
    if model.charsmap or model.remove_extra_whitespaces or not model.escape_whitespaces:
        return "its normaliser changes texts"
    if Kind.USER_DEFINED in kinds or Kind.UNUSED in kinds:
        return "it has user-defined or unused pieces"
    if len({piece.text for piece in model.pieces}) != len(model.pieces):
        return "two of its pieces are the same"
    return ""


def _merges(pieces: list[Piece]) -> Iterator[tuple[str, str]]:
    """Every way to cut a piece in two pieces, the piece of the highest score first."""
    normal = {piece.text: index for index, piece in enumerate(pieces) if piece.kind is Kind.NORMAL}
    for text in sorted(normal, key=lambda text: (-pieces[normal[text]].score, normal[text])):
        cuts = ((text[:at], text[at:]) for at in range(1, len(text)))
        known = [cut for cut in cuts if cut[0] in normal and cut[1] in normal]
        yield from sorted(known, key=lambda cut: (normal[cut[0]], normal[cut[1]]))


def read_model(data: bytes, where: str) -> Model:
    """Read the protocol buffer.

    Raises:
        DataError: If it is not one, or holds no pieces.
    """
    try:
        top = _fields(data)
        trainer, normalizer = (_fields(top[number][-1]) if number in top else {} for number in (2, 3))
        pieces = [_piece(_fields(item)) for item in top.get(1, ())]
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise DataError("this is not a SentencePiece model", where=where, why=str(error)) from error
    if not pieces:
        raise DataError("this is not a SentencePiece model", where=where, why="it holds no pieces")
    return Model(
        pieces=pieces,
        model_type=_last(trainer, 3, 1),
        byte_fallback=bool(_last(trainer, 35, 0)),
        charsmap=_last(normalizer, 2, b""),
        add_dummy_prefix=bool(_last(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_last(normalizer, 4, 1)),
        escape_whitespaces=bool(_last(normalizer, 5, 1)),
    )


def _piece(fields: Mapping[int, list]) -> Piece:
    (score,) = struct.unpack("<f", _last(fields, 2, bytes(4)))
    return Piece(fields[1][-1].decode(), score, Kind(_last(fields, 3, Kind.NORMAL)))


def _last(fields: Mapping[int, list], number: int, default):
    """The last value of a field, as protocol buffers want it, or the schema's default."""
    return fields[number][-1] if number in fields else default


def _fields(data: bytes) -> dict[int, list]:
    """A message's fields: number → values in order. Whole numbers stay numbers, all else is bytes.

    Raises:
        ValueError: If the bytes are not a message.
    """
    found: dict[int, list] = {}
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
        else:
            size, at = (8, at) if wire == _FIXED64 else (4, at) if wire == _FIXED32 else _varint(data, at)
            if wire not in (_FIXED64, _FIXED32, _BYTES) or at + size > len(data):
                raise ValueError(f"byte {at} is not in a message")
            value, at = data[at : at + size], at + size
        found.setdefault(number, []).append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"byte {at} is not in a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
