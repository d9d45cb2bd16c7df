"""tiktoken's rank file as a ``tokenizer.json``.

A line is a token's bytes in base64 and its rank, which is its id and the order of merging: of all neighbours whose
bytes together are a token, the pair of the lowest rank is merged. That becomes a list of merges by writing down every
way to cut a token in two tokens, in the order of ranks; a piece that is a token is taken whole (``ignore_merges``).

Source: openai/tiktoken, ``src/lib.rs``; the same conversion as in Hugging Face transformers, ``TikTokenConverter``.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping

from tokenizers import decoders

from rayllm.core.errors import DataError
from rayllm.tokenizer.formats.byte_alphabet import TEXT_BYTES, spell
from rayllm.tokenizer.formats.tokenizer_json import BpeParts, to_tokenizer_json
from rayllm.tokenizer.formats.vocab_merges import add_special
from rayllm.tokenizer.patterns import byte_level


def from_tiktoken(data: bytes, pattern: str, special: Mapping[str, int], where: str) -> bytes:
    """Convert a rank file.

    Args:
        data: Its content, not compressed.
        pattern: How texts are cut, see ``patterns``.
        special: Special tokens and their ids: they are not in the file.
        where: The file, for errors.

    Raises:
        DataError: If a line cannot be read, a rank comes twice, or a byte has none.
    """
    ranks = read_ranks(data, where)
    merges = [(spell(left), spell(right)) for token in ranks for left, right in _cuts(token, ranks)]
    vocab = add_special({spell(token): rank for token, rank in ranks.items()}, special, where)
    names = sorted(special, key=special.__getitem__)
    parts = BpeParts(vocab, merges, names, decoders.ByteLevel(), byte_level(pattern), ignore_merges=True)
    return to_tokenizer_json(parts)


def read_ranks(data: bytes, where: str) -> dict[bytes, int]:
    """Token → rank, in the order of ranks.

    Raises:
        DataError: See ``from_tiktoken``.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise DataError(
                "not a line of a tiktoken file", where=f"{where}, line {number}", why=f"{line[:60]!r}: {error}"
            ) from error
    lacking = [byte for byte in TEXT_BYTES if bytes([byte]) not in ranks]
    if lacking or len(set(ranks.values())) != len(ranks):
        why = f"the byte {lacking[0]:#04x} has no rank" if lacking else "two tokens have the same rank"
        raise DataError("the tiktoken file is not a whole vocabulary", where=where, why=why)
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def _cuts(token: bytes, ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Every way to cut a token in two tokens, by the ranks of the two."""
    cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
    known = [(left, right) for left, right in cuts if left in ranks and right in ranks]
    yield from sorted(known, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
