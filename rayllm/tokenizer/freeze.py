"""A tokenizer as files that cannot change unnoticed.

Out: ``tokenizer.json`` (Hugging Face format; its SHA-256 is the tokenizer's identity), ``tokenizer_config.json`` (for
``transformers``; its ``eos_token`` is what separates documents) and ``token_bytes.npy`` (bytes of text of each id).
Everything made with a tokenizer records the hash and compares it before use: a vocabulary of the same size with one
other merge gives other ids for the same text.
"""

import hashlib
import io
import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16
from tokenizers import Tokenizer

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged
from rayllm.tokenizer.special import PAD, separator_of
from rayllm.tokenizer.token_bytes import token_bytes

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKEN_BYTES = "token_bytes.npy"
FILES = (TOKENIZER_JSON, TOKENIZER_CONFIG, TOKEN_BYTES)


@dataclass(frozen=True)
class Frozen:
    """A tokenizer as it was read from its files."""

    tokenizer: Tokenizer
    sha256: str
    separator_id: int
    token_bytes: UInt16[np.ndarray, " vocab_size"]


def freeze(tokenizer_json: bytes, directory: str, separator: str | None = None) -> str:
    """Write a tokenizer's files.

    Args:
        tokenizer_json: The bytes of ``tokenizer.json``, written as they are.
        directory: Directory or URI to write into.
        separator: The special token between documents; by default the end of text, by the names that it usually has.

    Returns:
        The SHA-256 of ``tokenizer.json``.

    Raises:
        DataError: If it has no such token, or its vocabulary does not spell bytes.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    separator = separator_of(tokenizer, directory, separator)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": separator,
        "eos_token": separator,
        "pad_token": separator if tokenizer.token_to_id(PAD) is None else PAD,
        "clean_up_tokenization_spaces": False,
    }
    counts = io.BytesIO()
    np.save(counts, token_bytes(tokenizer), allow_pickle=False)
    storage.write_bytes(storage.join(directory, TOKEN_BYTES), counts.getvalue())
    storage.write_text(storage.join(directory, TOKENIZER_CONFIG), json.dumps(config, indent=1) + "\n")
    storage.write_bytes(storage.join(directory, TOKENIZER_JSON), tokenizer_json)
    return hashlib.sha256(tokenizer_json).hexdigest()


def read_frozen(directory: str, expected_sha256: str | None = None) -> Frozen:
    """Read a tokenizer's files and check that they belong together.

    Raises:
        ArtifactDamaged: If one is missing or broken, or ``tokenizer.json`` has another hash than expected.
        DataError: If the separator that they name is no special token.
    """
    data = _read(directory, TOKENIZER_JSON)
    sha256 = hashlib.sha256(data).hexdigest()
    if expected_sha256 is not None:
        check_sha256(sha256, expected_sha256, where=storage.join(directory, TOKENIZER_JSON))
    tokenizer = parse_tokenizer(data, storage.join(directory, TOKENIZER_JSON))
    counts = _read_counts(directory)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    if len(counts) != (size := max(vocab.values()) + 1):
        raise ArtifactDamaged(
            "the files of a tokenizer do not belong together",
            where=directory,
            why=f"{TOKENIZER_JSON} has {size:,} ids, {TOKEN_BYTES} has {len(counts):,}",
        )
    return Frozen(tokenizer, sha256, vocab[_read_separator(directory, tokenizer)], counts)


def copy_frozen(source: str, target: str) -> None:
    """Copy a tokenizer's files unchanged from one directory or URI to another."""
    for name in FILES:
        storage.write_bytes(storage.join(target, name), _read(source, name))


def check_sha256(found: str, expected: str, *, where: str) -> None:
    """Compare two tokenizers by their hashes.

    Raises:
        ArtifactDamaged: Naming both, if they differ.
    """
    if found != expected:
        raise ArtifactDamaged(
            "this is another tokenizer than the one the data was made with",
            where=where,
            why=f"its SHA-256 is {found}; expected {expected}",
            fix="use the tokenizer of that hash, or pack the data again with this one",
        )


def parse_tokenizer(data: bytes, where: str) -> Tokenizer:
    """Read the bytes of a ``tokenizer.json``.

    Raises:
        ArtifactDamaged: If they are not one.
    """
    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise ArtifactDamaged("the tokenizer cannot be read", where=where, why=str(error)[:200]) from error


def _read_separator(directory: str, tokenizer: Tokenizer) -> str:
    where = storage.join(directory, TOKENIZER_CONFIG)
    try:
        name = json.loads(_read(directory, TOKENIZER_CONFIG))["eos_token"]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactDamaged("the settings of a tokenizer cannot be read", where=where, why=repr(error)) from error
    return separator_of(tokenizer, where, name)


def _read_counts(directory: str) -> UInt16[np.ndarray, " vocab_size"]:
    where = storage.join(directory, TOKEN_BYTES)
    try:
        counts = np.load(io.BytesIO(_read(directory, TOKEN_BYTES)), allow_pickle=False)
    except ValueError as error:
        raise ArtifactDamaged("the byte counts of a tokenizer cannot be read", where=where, why=str(error)) from error
    if counts.dtype != np.uint16 or counts.ndim != 1:
        raise ArtifactDamaged(
            "the byte counts of a tokenizer are not what they should be",
            where=where,
            why=f"dtype {counts.dtype}, {counts.ndim} dimensions; expected uint16, 1",
        )
    return counts


def _read(directory: str, name: str) -> bytes:
    try:
        return storage.read_bytes(storage.join(directory, name))
    except FileNotFoundError as error:
        raise ArtifactDamaged(f"{name} is missing", where=directory, why="a frozen tokenizer needs it") from error
