"""Texts that a person names on a command line, by domain: files, a corpus artifact, or a run.

In: ``URI[:domain]``. Out: the head of each domain's texts. Files are read as ``sources:`` would read them, by their
ending; the domain behind the colon is then their name, by default that of the file. In a corpus it chooses one domain.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rayllm.core import storage
from rayllm.core.artifact import MANIFEST, Artifact, check_files, read_artifact
from rayllm.core.errors import ConfigError, DataError
from rayllm.core.log import get_logger
from rayllm.corpus.documents import BadRow, Document, Split
from rayllm.corpus.sources import (
    ArrowSource,
    JsonlSource,
    MarkdownSource,
    ParquetSource,
    Source,
    TextSource,
    WarcSource,
)

logger = get_logger(__name__)

UNIT_BYTES = 64 << 20
MAX_ROW_BYTES = 16 << 20
BATCH_BYTES = 1 << 20
RUN_FILES = (".yaml", ".yml")
_ROWS = {
    ".jsonl": JsonlSource,
    ".json": JsonlSource,
    ".ndjson": JsonlSource,
    ".parquet": ParquetSource,
    ".arrow": ArrowSource,
}
_TEXTS = {".md": MarkdownSource, ".warc": WarcSource, ".wet": WarcSource}
_COMPRESSION = re.compile(r"\.(gz|zst|bz2)$")
_DOMAIN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Asked:
    """What to read.

    Attributes:
        max_bytes: Text of each domain at most, in bytes.
        split: Which part of a corpus.
        field: Which field of JSONL, Parquet and Arrow holds the text, or a template such as ``{question} {answer}``.
    """

    max_bytes: int
    split: Split
    field: str


def read_samples(written: Iterable[str], asked: Asked) -> dict[str, list[str]]:
    """The texts of each domain, in the order in which they were named; those of the same name together.

    Raises:
        ConfigError: If there is nothing under a name, or it is no text.
        SetupError: If a run has no corpus yet.
        DataError: If nothing can be read, or a file of a corpus is damaged.
    """
    found: dict[str, list[str]] = {}
    left: dict[str, int] = {}
    for text in written:
        uri, domain = split_domain(text)
        for name, texts in _open(uri, domain, asked):
            room = left.setdefault(name, asked.max_bytes)
            found[name] = [*found.get(name, ()), *_head(texts, room)]
            left[name] = asked.max_bytes - sum(len(text.encode()) for text in found[name])
    empty = [name for name, texts in found.items() if not texts]
    if empty:
        raise DataError(f"there is no text in {', '.join(empty)}", where="--text", fix="name other files")
    return found


def split_domain(written: str) -> tuple[str, str | None]:
    """``data/c4.jsonl:web`` → ``data/c4.jsonl``, ``web``; the colon of a scheme is none of these."""
    uri, _, domain = written.rpartition(":")
    return (uri, domain) if uri and _DOMAIN.fullmatch(domain) else (written, None)


def _open(uri: str, domain: str | None, asked: Asked) -> Iterator[tuple[str, Iterator[str]]]:
    """The domains behind a name, and the texts of each, read when they are needed."""
    if uri.endswith(RUN_FILES):
        yield from _corpus(_corpus_of_run(uri), domain, asked.split)
    elif storage.exists(storage.join(uri, MANIFEST)):
        yield from _corpus(read_artifact(uri), domain, asked.split)
    else:
        name = _name_of(uri) if domain is None else domain
        yield name, _files(uri, name, asked.field)


def _head(texts: Iterator[str], limit: int) -> Iterator[str]:
    """Texts until they are ``limit`` bytes together; the one that goes over it is cut there."""
    for text in texts:
        data = text.encode()
        if len(data) >= limit:
            if limit > 0 and (rest := data[:limit].decode(errors="ignore")):
                yield rest
            return
        limit -= len(data)
        yield text


def _corpus_of_run(file: str) -> Artifact:
    from rayllm.pipelines.existing import find_artifacts
    from rayllm.pipelines.run_config import load_run

    return find_artifacts(load_run(file, []), "prepare", file)["prepare"]


def _corpus(corpus: Artifact, domain: str | None, split: Split) -> Iterator[tuple[str, Iterator[str]]]:
    from rayllm.pipelines.corpus_shards import domain_shards, read_texts

    if corpus.manifest.stage != "prepare":
        raise ConfigError(
            f"this is an artifact of {corpus.manifest.stage}, which holds no texts",
            where=corpus.uri,
            fix="name the artifact of prepare",
        )
    shards = domain_shards(corpus, split)
    if not shards or (domain is not None and domain not in shards):
        raise ConfigError(
            f"the corpus has no {split} text" + (f" of a domain {domain!r}" if domain else ""),
            where=corpus.uri,
            why=f"its domains are {', '.join(shards) or 'none'}",
            fix="name one of them, or the other part by --split",
        )

    def texts(name: str) -> Iterator[str]:
        for record in shards[name]:
            check_files(corpus.uri, [record], deep=True)
            for batch in read_texts(corpus.file(record.path), BATCH_BYTES):
                yield from batch.to_pylist()

    for name in shards if domain is None else [domain]:
        yield name, texts(name)


def _files(uri: str, name: str, field: str) -> Iterator[str]:
    """The texts of files; rows that cannot be read are counted, and all of them are an error."""
    from rayllm.corpus.readers import read_unit
    from rayllm.corpus.sources import list_units

    source = source_of(uri, field)
    bad: list[BadRow] = []
    read = 0
    for unit in list_units({name: [source]}, "validation", UNIT_BYTES, "--text"):
        for row in read_unit(unit, source, max_row_bytes=MAX_ROW_BYTES, seed=0):
            if isinstance(row, BadRow):
                bad.append(row)
            elif isinstance(row, Document) and row.text:
                read += 1
                yield row.text
    if bad:
        first = f"{bad[0].source}, row {bad[0].row}: {bad[0].detail}"
        if not read:
            raise DataError("no row of these texts can be read", where=uri, why=first, fix="set --field, if it is rows")
        logger.warning("%s: %d rows cannot be read, such as %s", uri, len(bad), first)


def source_of(uri: str, field: str) -> Source:
    """How to read a file, by its ending; what has none of the known ones is plain text."""
    ending = posixpath.splitext(_COMPRESSION.sub("", uri))[1].lower()
    if ending in _ROWS:
        return _ROWS[ending].model_validate({"path": [uri], "template" if "{" in field else "text": field})
    return _TEXTS.get(ending, TextSource)(path=[uri])


def _name_of(uri: str) -> str:
    """A domain's name for files: ``text/c4_en.jsonl.gz`` → ``c4_en``; of a glob its directory."""
    parts = [part for part in uri.split("/") if part]
    named = [part for part in parts if not set("*?[") & set(part)] or ["text"]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", named[-1].split(".")[0] or named[-1]).strip("-") or "text"
