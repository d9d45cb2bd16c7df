"""Tokenizers that are to be looked at side by side: opened from whatever holds one, and named.

A candidate is written as a file or URI of any format that ``adopt`` takes over, or as a directory with a tokenizer in
it (a tokenizer artifact, packed data, a checkpoint, a model of Hugging Face). Files that do not say how texts are cut
have the name of their pattern behind them: ``cl100k_base.tiktoken@cl100k``. Nothing is checked that only training
needs: a tokenizer without a separator, or one that changes texts, can be compared like others.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tokenizers import Tokenizer

from rayllm.core import storage
from rayllm.core.artifact import MANIFEST, read_artifact
from rayllm.core.errors import ConfigError
from rayllm.tokenizer.adopt import needs_pattern, read_tokenizer
from rayllm.tokenizer.encoders.choice import choose_encoder
from rayllm.tokenizer.encoders.encoder import Encoder
from rayllm.tokenizer.freeze import TOKENIZER_JSON, parse_tokenizer
from rayllm.tokenizer.patterns import PATTERNS
from rayllm.tokenizer.special import ordinary

#: What is looked for in a directory, in this order.
IN_DIRECTORIES = (TOKENIZER_JSON, "tokenizer.model")
#: Names of files, without ending, that all tokenizers of a kind have.
_USUAL_NAMES = ("tokenizer", "vocab", "encoder")
_ENDINGS = re.compile(r"(\.(json|model|tiktoken|ya?ml))?(\.gz)?$")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A tokenizer to compare.

    Attributes:
        name: What tables call it.
        source: What it was read from.
        sha256: SHA-256 of it as a ``tokenizer.json``.
        tokenizer: The ``tokenizers`` object; special tokens in text are off.
    """

    name: str
    source: str
    sha256: str
    tokenizer: Tokenizer = field(repr=False)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that packing would use in this process."""
        return choose_encoder(self.tokenizer)

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def open_candidate(written: str, name: str) -> Candidate:
    """Open a tokenizer.

    Args:
        written: File, directory or URI, with ``@PATTERN`` behind it where the file needs one.
        name: What to call it.

    Raises:
        ConfigError: If nothing is there, or the pattern is missing, unknown or not wanted.
        ArtifactDamaged: If it cannot be parsed, or differs from the manifest beside it.
        DataError: If it cannot be converted.
    """
    source, pattern = split_pattern(written)
    file = _find_file(source)
    if needs_pattern(file) != (pattern is not None):
        raise _pattern_error(file, pattern)
    data = read_tokenizer(file, pattern=pattern)
    tokenizer = ordinary(parse_tokenizer(data, file))
    return Candidate(name, written, hashlib.sha256(data).hexdigest(), tokenizer)


def split_pattern(written: str) -> tuple[str, str | None]:
    """A candidate as it was written, in two: ``a.tiktoken@cl100k`` → ``a.tiktoken``, ``cl100k``.

    Raises:
        ConfigError: If a file that needs a pattern has an unknown one.
    """
    source, _, pattern = written.rpartition("@")
    if source and pattern in PATTERNS:
        return source, pattern
    if source and needs_pattern(source):
        raise ConfigError(f"{pattern!r} is not a pattern", where=written, fix=f"known: {', '.join(PATTERNS)}")
    return written, None


def short_names(written: Sequence[str]) -> list[str]:
    """A name for each candidate: of its file or its directory, with as much of the path as tells them apart."""
    paths = [_telling_parts(text) for text in written]
    names = [""] * len(paths)
    for depth in range(1, max(map(len, paths), default=0) + 1):
        shown = ["/".join(parts[-depth:]) for parts in paths]
        often = Counter(shown)
        names = [name or (text if often[text] == 1 else "") for name, text in zip(names, shown, strict=True)]
    return [name or text for name, text in zip(names, written, strict=True)]


def _telling_parts(written: str) -> list[str]:
    """The parts of a path, without what says nothing: ``models/gpt2/tokenizer.json`` → models, gpt2."""
    source, _ = split_pattern(written)
    parts = [part for part in re.sub(r"^\w+://", "", source).split("/") if part not in ("", ".", "..")]
    if len(parts) > 1 and _ENDINGS.sub("", parts[-1]) in _USUAL_NAMES:
        return parts[:-1]
    return [*parts[:-1], *(_ENDINGS.sub("", part) for part in parts[-1:])]


def _find_file(source: str) -> str:
    """The tokenizer's file: the source itself, or one in that directory."""
    if storage.exists(storage.join(source, MANIFEST)):
        read_artifact(source).verify(deep=True, only="tokenizer")
    for name in IN_DIRECTORIES:
        if storage.exists(file := storage.join(source, name)):
            return file
    if not storage.exists(source):
        raise ConfigError(
            "there is no tokenizer",
            where=source,
            fix="name a tokenizer.json, a vocab.json with merges.txt beside it, a .tiktoken or a .model file, a "
            "directory with a tokenizer.json, or a run file",
        )
    fs, path = storage.filesystem(source)
    if fs.isdir(path):
        raise ConfigError(
            "this directory holds no tokenizer",
            where=source,
            why=f"it has no {' and no '.join(IN_DIRECTORIES)}",
            fix="name the directory of a tokenizer artifact, of packed data or of a checkpoint, or the file itself",
        )
    return source


def _pattern_error(file: str, pattern: str | None) -> ConfigError:
    if pattern is None:
        return ConfigError(
            "the file does not say how texts are cut into pieces",
            where=file,
            fix=f"put the name of its pattern behind it, such as {file}@cl100k (known: {', '.join(PATTERNS)})",
        )
    return ConfigError("the file says itself how texts are cut into pieces", where=file, fix=f"leave @{pattern} out")
