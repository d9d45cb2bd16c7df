"""GPT-2's two files, ``vocab.json`` and ``merges.txt``, as a ``tokenizer.json``.

SuperBPE's authors publish their vocabularies in this form too. Neither file says how texts are cut into pieces.
"""

import json
from collections.abc import Mapping

from tokenizers import decoders

from rayllm.core.errors import DataError
from rayllm.tokenizer.formats.byte_alphabet import BYTE_CHARS, TEXT_BYTES
from rayllm.tokenizer.formats.tokenizer_json import BpeParts, to_tokenizer_json
from rayllm.tokenizer.patterns import byte_level


def from_vocab_merges(vocab: bytes, merges: bytes, pattern: str, special: Mapping[str, int], where: str) -> bytes:
    """Join the two files.

    Args:
        vocab: JSON, token → id.
        merges: A pair of tokens a line, the first merge first; a first line ``#version`` is skipped.
        pattern: How texts are cut, see ``patterns``.
        special: Special tokens and their ids, beside those of the vocabulary: tokens that are no byte and that no
            merge makes.
        where: The file, for errors.

    Raises:
        DataError: If the files do not fit together or lack a byte.
    """
    ids = _read_vocab(vocab, where)
    pairs = _read_merges(merges, where)
    made = {left + right for left, right in pairs}
    missing = [token for pair in pairs for token in (*pair, pair[0] + pair[1]) if token not in ids]
    missing += [BYTE_CHARS[byte] for byte in TEXT_BYTES if BYTE_CHARS[byte] not in ids]
    if missing:
        raise DataError(
            "the vocabulary and the merges do not belong together",
            where=where,
            why=f"{len(missing):,} tokens are not in the vocabulary, such as {missing[0]!r}",
            fix="take both files from the same directory",
        )
    unreachable = [token for token in ids if token not in made and token not in BYTE_CHARS]
    whole = add_special(ids, special, where)
    names = sorted({*unreachable, *special}, key=whole.__getitem__)
    parts = BpeParts(whole, pairs, names, decoders.ByteLevel(), byte_level(pattern))
    return to_tokenizer_json(parts)


def add_special(vocab: Mapping[str, int], special: Mapping[str, int], where: str) -> dict[str, int]:
    """The vocabulary with special tokens in it.

    Raises:
        DataError: If an id is taken by another token, or a token has another id already.
    """
    taken = {index: token for token, index in vocab.items()}
    for token, index in special.items():
        if taken.get(index, token) != token or vocab.get(token, index) != index:
            raise DataError(
                f"{token!r} cannot have the id {index:,}",
                where=where,
                why=f"the id is that of {taken[index]!r}"
                if taken.get(index, token) != token
                else f"it has the id {vocab[token]:,}",
                fix=f"give it a free id in fit_tokenizer.special_tokens, such as {max(taken) + 1}",
            )
        taken[index] = token
    return {**vocab, **special}


def _read_vocab(data: bytes, where: str) -> dict[str, int]:
    try:
        vocab = json.loads(data)
    except ValueError as error:
        raise DataError("the vocabulary cannot be read", where=where, why=str(error)) from error
    if not isinstance(vocab, dict) or not all(isinstance(index, int) and index >= 0 for index in vocab.values()):
        raise DataError("the vocabulary is not a JSON object of tokens and ids", where=where)
    if len(set(vocab.values())) != len(vocab):
        raise DataError("two tokens of the vocabulary have the same id", where=where)
    return vocab


def _read_merges(data: bytes, where: str) -> list[tuple[str, str]]:
    lines = data.decode().split("\n")
    first = 1 if lines[0].startswith("#version") else 0
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(lines[first:], start=first + 1):
        parts = line.rstrip("\r").split(" ")
        if parts == [""]:
            continue
        if len(parts) != 2:
            raise DataError("a merge is not a pair of tokens", where=f"{where}, merges line {number}", why=repr(line))
        pairs.append((parts[0], parts[1]))
    return pairs
