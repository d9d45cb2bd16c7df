"""Packed tokens on disk: flat shards, memory-mapped, read at any position.

A packed directory holds ``packed.json`` and for every split and domain shards of two files: ``00000.tokens`` (flat
little-endian uint16, or uint32 where the vocabulary needs it) and ``00000.bounds`` (uint64: the token offset in the
shard of each document's separator); a third one, ``00000.mask`` (uint8 for each token: is it to be learnt?), where some
tokens are only read, as the prompts of conversations. ``ShardWriter`` makes a shard, ``PackedData`` opens a directory,
a ``TokenStream`` reads one domain of one split as a single row of tokens, whatever its shards. Shards at remote URIs
are read from a cache on the node (``shard_cache``).
"""

import bisect
import hashlib
import itertools
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64, Integer
from pydantic import BaseModel, ConfigDict, ValidationError

from rayllm.core import storage
from rayllm.core.artifact import FileRecord
from rayllm.core.errors import ArtifactDamaged, DataError
from rayllm.data.shard_cache import cached
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import check_sha256

PACKED_JSON = "packed.json"
TOKENS, BOUNDS, MASK = ".tokens", ".bounds", ".mask"
DTypeName = Literal["uint16", "uint32"]
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
BOUNDS_DTYPE, MASK_DTYPE = np.dtype("<u8"), np.dtype("u1")


class ShardRecord(BaseModel):
    """One shard: its name below the packed directory without ending, its sizes, and the SHA-256 of its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    tokens: int
    documents: int
    bytes: int
    tokens_sha256: str
    bounds_sha256: str
    mask_sha256: str | None = None

    def files(self, dtype: DTypeName) -> list[FileRecord]:
        """What the shard's files must be.

        Args:
            dtype: Of the tokens.
        """
        sizes = {TOKENS: self.tokens * DTYPES[dtype].itemsize, BOUNDS: self.documents * BOUNDS_DTYPE.itemsize}
        hashes = {TOKENS: self.tokens_sha256, BOUNDS: self.bounds_sha256}
        if self.mask_sha256:
            sizes[MASK], hashes[MASK] = self.tokens * MASK_DTYPE.itemsize, self.mask_sha256
        return [FileRecord(path=self.name + end, bytes=sizes[end], sha256=hashes[end]) for end in sizes]


class PackedIndex(BaseModel):
    """The content of ``packed.json``: what the shards hold, by split and domain in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    dtype: DTypeName
    vocab_size: int
    tokenizer_sha256: str
    separator_id: int
    splits: dict[str, dict[str, list[ShardRecord]]]

    def write(self, directory: str) -> None:
        """Write it as ``packed.json`` into the packed directory."""
        storage.write_text(storage.join(directory, PACKED_JSON), self.model_dump_json(indent=1, exclude_none=True))


def dtype_for(vocab_size: int) -> DTypeName:
    """The smallest dtype that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class ShardWriter:
    """Writes one shard, batch after batch; a context manager whose ``record`` is set when it has closed well.

    The files appear under their names only when they are whole; after an exception nothing is left. For a remote
    target they are written locally first, then uploaded.
    """

    record: ShardRecord

    def __init__(self, directory: str, name: str, dtype: DTypeName) -> None:
        """Open the shard.

        Args:
            directory: The packed directory or its URI.
            name: Name of the shard below it without ending, such as ``train/web/00000``.
            dtype: Of the tokens.
        """
        self._target = storage.join(directory, name)
        self._name, self._dtype = name, DTYPES[dtype]
        local = storage.is_local(directory)
        parent = storage.local_path(self._target).parent if local else Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        unique = f".{Path(name).name}.{uuid.uuid4().hex[:12]}"
        self._scratch = parent / unique
        self._files = {ending: _HashedFile(parent / f"{unique}{ending}") for ending in (TOKENS, BOUNDS)}
        self._tokens = self._documents = self._bytes = 0

    def append(
        self,
        tokens: Integer[np.ndarray, " tokens"],
        starts: Integer[np.ndarray, " documents"],
        text_bytes: int,
        loss_mask: Bool[np.ndarray, " tokens"] | None = None,
    ) -> None:
        """Add documents.

        Args:
            tokens: Their ids, one document after the other, each with its separator first.
            starts: Where each document's separator stands in ``tokens``.
            text_bytes: UTF-8 bytes of their texts together.
            loss_mask: Which of the tokens are to be learnt; all of them if None. A separator's part is the end of the
                document before it.

        Raises:
            ValueError: If the mask is not as long as the tokens.
        """
        if loss_mask is not None and len(loss_mask) != len(tokens):
            raise ValueError(f"a loss mask of {len(loss_mask):,} for {len(tokens):,} tokens")
        self._append_mask(loss_mask, len(tokens))
        self._files[TOKENS].write(tokens.astype(self._dtype, copy=False))
        self._files[BOUNDS].write(starts.astype(BOUNDS_DTYPE) + np.uint64(self._tokens))
        self._tokens += len(tokens)
        self._documents += len(starts)
        self._bytes += text_bytes

    def _append_mask(self, loss_mask: Bool[np.ndarray, " tokens"] | None, count: int) -> None:
        """Write the mask's file from the first mask on; what came before it is all learnt."""
        if loss_mask is None and MASK not in self._files:
            return
        if MASK not in self._files:
            self._files[MASK] = _HashedFile(self._scratch.with_name(self._scratch.name + MASK))
            self._files[MASK].write(np.ones(self._tokens, MASK_DTYPE))
        self._files[MASK].write(np.ones(count, MASK_DTYPE) if loss_mask is None else loss_mask.astype(MASK_DTYPE))

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            hashes = {ending: file.close() for ending, file in self._files.items()}
            if kind is None:
                for ending, file in self._files.items():
                    _move(file.path, self._target + ending)
                self.record = ShardRecord(
                    name=self._name,
                    tokens=self._tokens,
                    documents=self._documents,
                    bytes=self._bytes,
                    tokens_sha256=hashes[TOKENS],
                    bounds_sha256=hashes[BOUNDS],
                    mask_sha256=hashes.get(MASK),
                )
        finally:
            for file in self._files.values():
                file.path.unlink(missing_ok=True)


class _HashedFile:
    """A local file that is hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()

    def write(self, array: np.ndarray) -> None:
        view = np.ascontiguousarray(array).data.cast("B") if array.size else b""
        self._file.write(view)
        self._digest.update(view)

    def close(self) -> str:
        """Flush to the disk; the SHA-256 of all that was written."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()


def _move(source: Path, target: str) -> None:
    if not storage.is_local(target):
        storage.upload(source, target)
        return
    path = storage.local_path(target)
    source.replace(path)
    storage.sync_directory(path.parent)


@dataclass(frozen=True)
class PackedData:
    """A packed directory: its URI, its index, and where remote shards are cached."""

    uri: str
    index: PackedIndex
    cache_dir: Path | None = None

    @classmethod
    def open(cls, uri: str, *, cache_dir: Path | None = None) -> "PackedData":
        """Read ``packed.json``; shards are opened when a stream first reads them.

        Args:
            uri: The packed directory.
            cache_dir: Where remote shards are kept; ``shard_cache.default_cache_dir()`` by default.

        Raises:
            ArtifactDamaged: If there is no ``packed.json`` or it cannot be read.
        """
        where = storage.join(uri, PACKED_JSON)
        try:
            return cls(uri, PackedIndex.model_validate_json(storage.read_bytes(where)), cache_dir)
        except FileNotFoundError as error:
            raise ArtifactDamaged("this is not packed data", where=uri, why=f"{PACKED_JSON} is missing") from error
        except ValidationError as error:
            why = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:2])
            raise ArtifactDamaged("the index of packed data cannot be read", where=where, why=why) from error

    @property
    def vocab_size(self) -> int:
        """One more than the highest id of the tokenizer."""
        return self.index.vocab_size

    @property
    def separator_id(self) -> int:
        """The id that stands before every document."""
        return self.index.separator_id

    @property
    def tokenizer_sha256(self) -> str:
        """The hash of the tokenizer that made the tokens."""
        return self.index.tokenizer_sha256

    def domains(self, split: str) -> list[str]:
        """Domains of a split, in the order of the run file; empty where there is no such split."""
        return list(self.index.splits.get(split, ()))

    def stream(self, split: str, domain: str) -> "TokenStream":
        """The tokens of one domain.

        Raises:
            DataError: If there is no such split or domain.
        """
        records = self.index.splits.get(split, {}).get(domain)
        if records is None:
            there = ", ".join(f"{s}/{d}" for s, domains in self.index.splits.items() for d in domains)
            raise DataError(f"there are no packed tokens of {split}/{domain}", where=self.uri, why=f"there are {there}")
        return TokenStream(self.uri, records, self.index.dtype, self.cache_dir)

    def codec(self) -> Codec:
        """The tokenizer that made the tokens, from the copy that lies beside them.

        Raises:
            ArtifactDamaged: If the copy is another tokenizer than the index names.
        """
        return Codec.load(self.uri, self.tokenizer_sha256)

    def check_tokenizer(self, sha256: str) -> None:
        """Refuse another tokenizer than the one the tokens were made with.

        Raises:
            ArtifactDamaged: Naming both hashes.
        """
        check_sha256(sha256, self.tokenizer_sha256, where=self.uri)


class TokenStream:
    """The tokens of one domain of one split as one row; its shards are memory-mapped, nothing is copied until read.

    May be pickled: the copy opens the files anew.
    """

    def __init__(self, uri: str, records: Sequence[ShardRecord], dtype: DTypeName, cache_dir: Path | None) -> None:
        self._uri, self._records, self._cache_dir = uri, tuple(records), cache_dir
        self._dtype: DTypeName = dtype
        self._first = [0, *itertools.accumulate(record.tokens for record in self._records)]
        self._mapped: dict[str, np.ndarray] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens, separators included."""
        return self._first[-1]

    @property
    def num_documents(self) -> int:
        """Documents, which is also the number of separators."""
        return sum(record.documents for record in self._records)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the texts."""
        return sum(record.bytes for record in self._records)

    def read(self, start: int, count: int) -> Int64[np.ndarray, " count"]:
        """A copy of the tokens ``start`` to ``start + count``, across shards.

        Raises:
            ValueError: If that reaches beyond the stream.
            ArtifactDamaged: If a shard that it touches is missing or has another size than the index says.
        """
        out = np.empty(count, np.int64)
        for shard, there, here in self._parts(start, count):
            out[here] = self._open(shard, TOKENS)[there]
        return out

    @property
    def has_mask(self) -> bool:
        """Whether some tokens may be read only, not learnt."""
        return any(record.mask_sha256 for record in self._records)

    def read_mask(self, start: int, count: int) -> Bool[np.ndarray, " count"]:
        """Which of the tokens ``start`` to ``start + count`` are to be learnt; see ``read``."""
        out = np.ones(count, bool)
        for shard, there, here in self._parts(start, count):
            if self._records[shard].mask_sha256:
                out[here] = self._open(shard, MASK)[there]
        return out

    def _parts(self, start: int, count: int) -> Iterator[tuple[int, slice, slice]]:
        """The shards that hold a range, each with the part's place in the shard and in the range."""
        if start < 0 or count < 0 or start + count > self.num_tokens:
            raise ValueError(f"tokens {start:,} to {start + count:,} are not within 0 to {self.num_tokens:,}")
        done, shard = 0, bisect.bisect_right(self._first, start) - 1
        while done < count:
            offset = start + done - self._first[shard]
            size = min(count - done, self._records[shard].tokens - offset)
            yield shard, slice(offset, offset + size), slice(done, done + size)
            done, shard = done + size, shard + 1

    @property
    def records(self) -> tuple[ShardRecord, ...]:
        """The shards, in the order of their tokens."""
        return self._records

    def document_starts(self) -> Int64[np.ndarray, " documents"]:
        """The position of every document's separator in the stream, ascending."""
        parts = [self._open(i, BOUNDS).astype(np.int64) + self._first[i] for i in range(len(self._records))]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def check(self) -> None:
        """Open every shard now, so that a damaged one is found before the work starts.

        Raises:
            ArtifactDamaged: Naming the first file that is missing or has another size than the index says.
        """
        for shard, record in enumerate(self._records):
            for file in record.files(self._dtype):
                self._open(shard, file.path.removeprefix(record.name))

    def _open(self, shard: int, ending: str) -> np.ndarray:
        record = self._records[shard]
        name = record.name + ending
        if name not in self._mapped:
            (file,) = (file for file in record.files(self._dtype) if file.path == name)
            dtype = {TOKENS: DTYPES[self._dtype], BOUNDS: BOUNDS_DTYPE, MASK: MASK_DTYPE}[ending]
            path = cached(storage.join(self._uri, name), file.sha256, self._cache_dir)
            self._mapped[name] = _map_file(path, dtype, file.bytes // dtype.itemsize)
        return self._mapped[name]

    def __getstate__(self) -> Mapping[str, object]:
        return {**self.__dict__, "_mapped": {}}


def _map_file(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """Memory-map a file of exactly ``count`` numbers."""
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise ArtifactDamaged("a token shard is missing", where=str(path), fix="pack the data again") from error
    if found != count * dtype.itemsize:
        raise ArtifactDamaged(
            "a token shard has another size than its index says",
            where=str(path),
            why=f"{found:,} bytes; {count:,} numbers of {dtype.name} are {count * dtype.itemsize:,} bytes",
            fix="restore the file, or pack the data again with --force",
        )
    return np.memmap(path, dtype, mode="r", shape=(count,)) if count else np.empty(0, dtype)
