"""Taking over a tokenizer that exists: any of the usual files to the bytes of a ``tokenizer.json`` with the same ids.

| file | holds | beside it |
|---|---|---|
| ``tokenizer.json`` | everything; taken byte for byte | |
| ``vocab.json`` (GPT-2, SuperBPE) | tokens and ids | ``merges.txt``; the pattern is named in the config |
| ``*.tiktoken`` | tokens and ranks | the pattern is named in the config |
| ``*.model`` (SentencePiece: Llama 2, CodeLlama) | everything but the ways of its program | |

Each may be compressed (``.gz``). Before a tokenizer is taken, texts must survive it, and no text may give the id of a
special token.
"""

import hashlib
import posixpath
import zlib
from collections.abc import Mapping

from tokenizers import Tokenizer

from rayllm.core import storage
from rayllm.core.errors import ConfigError, DataError
from rayllm.tokenizer.encoders.probe import PROBE
from rayllm.tokenizer.formats.sentencepiece import from_sentencepiece
from rayllm.tokenizer.formats.tiktoken import from_tiktoken
from rayllm.tokenizer.formats.vocab_merges import from_vocab_merges
from rayllm.tokenizer.freeze import check_sha256, parse_tokenizer
from rayllm.tokenizer.patterns import SPECIAL_TOKENS
from rayllm.tokenizer.special import ordinary, separator_of
from rayllm.tokenizer.token_bytes import token_bytes

GZIP = ".gz"
#: How the files end; anything else that is named is a checkpoint.
TOKENIZER_FILES = (".json", ".tiktoken", ".model")
#: Names of GPT-2's two files, here and in OpenAI's own release.
_MERGES = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}


def needs_pattern(uri: str) -> bool:
    """Whether a file does not say itself how texts are cut."""
    name = posixpath.basename(uri).removesuffix(GZIP)
    return name.endswith(".tiktoken") or _merges_name(name) is not None


def read_tokenizer(
    uri: str,
    *,
    expected_sha256: str | None = None,
    pattern: str | None = None,
    special_tokens: Mapping[str, int] | None = None,
) -> bytes:
    """Read a tokenizer made elsewhere.

    Args:
        uri: The file; its name says which kind it is, see above.
        expected_sha256: What the file must hash to, if known.
        pattern: How texts are cut, for files that do not say it: a name of ``patterns.PATTERNS``, or a regular
            expression.
        special_tokens: Special tokens and their ids, for the same files; by default those known of the pattern.

    Returns:
        The content of ``tokenizer.json``.

    Raises:
        ConfigError: If there is no such file, or the pattern is missing, wrong, or not wanted.
        ArtifactDamaged: If it has another hash.
        DataError: If it cannot be read or converted.
    """
    data = _read(uri)
    if expected_sha256 is not None:
        check_sha256(hashlib.sha256(data).hexdigest(), expected_sha256, where=uri)
    if needs_pattern(uri) != (pattern is not None):
        raise _pattern_error(uri, pattern)
    name, data = posixpath.basename(uri).removesuffix(GZIP), _decompressed(uri, data)
    if pattern is None:
        return from_sentencepiece(data, uri) if name.endswith(".model") else data
    special = SPECIAL_TOKENS.get(pattern, {}) if special_tokens is None else special_tokens
    try:
        if name.endswith(".tiktoken"):
            return from_tiktoken(data, pattern, special, uri)
        return from_vocab_merges(data, _read_merges(uri), pattern, special, uri)
    except ValueError as error:
        raise ConfigError(str(error), where="fit_tokenizer.pattern") from error


def check_tokenizer(tokenizer_json: bytes, where: str, separator: str | None) -> str:
    """Make sure that a tokenizer can be used for training.

    Args:
        tokenizer_json: The tokenizer.
        where: Its file, for errors.
        separator: The special token between documents; by default the end of text, by the names that it usually has.

    Returns:
        The separator's name.

    Raises:
        ArtifactDamaged: If it cannot be parsed.
        DataError: If texts do not survive it, text can give a special token's id, or it has no separator.
    """
    tokenizer = ordinary(parse_tokenizer(tokenizer_json, where))
    token_bytes(tokenizer)
    check_round_trip(tokenizer, where)
    _check_no_forgery(tokenizer, where)
    return separator_of(tokenizer, where, separator)


def check_round_trip(tokenizer: Tokenizer, where: str) -> None:
    """Encode and decode a text of many kinds of characters.

    Raises:
        DataError: If it comes back changed.
    """
    back = tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False).ids, skip_special_tokens=False)
    if back != PROBE:
        at = next((i for i, (a, b) in enumerate(zip(PROBE, back, strict=False)) if a != b), min(len(PROBE), len(back)))
        raise DataError(
            "this tokenizer changes texts",
            where=where,
            why=f"{PROBE[at : at + 12]!r} came back as {back[at : at + 12]!r}",
            fix="use a tokenizer without normaliser (lower-casing, NFKC, added spaces)",
        )


def _check_no_forgery(tokenizer: Tokenizer, where: str) -> None:
    special = {index: token.content for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    for name in special.values():
        for text in (name, f"a {name}b"):
            found = special.keys() & set(tokenizer.encode(text, add_special_tokens=False).ids)
            if found:
                raise DataError(
                    f"the text {text!r} gives the special token {special[min(found)]!r}",
                    where=where,
                    why="a document could end itself or another one",
                    fix="use a pattern that cuts the names of special tokens in pieces",
                )


def _read(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(
            "there is no tokenizer file",
            where=f"fit_tokenizer.from_file: {uri}",
            fix="name a tokenizer.json, a vocab.json with merges.txt beside it, a .tiktoken or a .model file",
        ) from error


def _read_merges(uri: str) -> bytes:
    """The merges beside a vocabulary, compressed or not."""
    directory, name = posixpath.split(uri)
    base = _merges_name(name.removesuffix(GZIP))
    choices = [posixpath.join(directory, f"{base}{ending}") for ending in ("", GZIP)]
    for choice in choices:
        if storage.exists(choice):
            return _decompressed(choice, storage.read_bytes(choice))
    raise ConfigError("the merges of the vocabulary are missing", where=choices[0], fix=f"put {base} beside {name}")


def _merges_name(vocab_name: str) -> str | None:
    """Name of the file of merges that belongs to a vocabulary's file: ``gpt2-vocab.json`` → ``gpt2-merges.txt``."""
    for vocab, merges in _MERGES.items():
        if vocab_name.endswith(vocab):
            return vocab_name.removesuffix(vocab) + merges
    return None


def _decompressed(uri: str, data: bytes) -> bytes:
    if not uri.endswith(GZIP):
        return data
    try:
        return zlib.decompress(data, zlib.MAX_WBITS | 16)
    except zlib.error as error:
        raise DataError("the file cannot be decompressed", where=uri, why=str(error)) from error


def _pattern_error(uri: str, pattern: str | None) -> ConfigError:
    if pattern is None:
        return ConfigError(
            "the file does not say how texts are cut into pieces",
            where=uri,
            fix=f"set fit_tokenizer.pattern to {', '.join([*SPECIAL_TOKENS, 'gpt2', 'superbpe'])} or a regular "
            "expression; another pattern than the vocabulary's own gives other ids",
        )
    return ConfigError(
        "the file says itself how texts are cut into pieces", where=uri, fix="leave fit_tokenizer.pattern out"
    )
