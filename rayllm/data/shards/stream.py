"""Reading packed tokens: the shards of one domain as a single row of tokens.

In: shard records and where their files lie. Out: tokens, masks and document starts of any range. Shards at remote URIs
are read from a cache on the node (``data.shards.cache``).
"""

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged
from rayllm.data.shards.cache import cached
from rayllm.data.shards.format import BOUNDS, BOUNDS_DTYPE, DTYPES, MASK, MASK_DTYPE, TOKENS, DTypeName, ShardRecord


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
        """Documents; each begins with a separator, and a pair has a second one inside."""
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
