"""The text of a corpus artifact, domain by domain, shard by shard."""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayllm.core import storage
from rayllm.core.artifact import Artifact, FileRecord

BATCH_ROWS = 1024


def domain_shards(corpus: Artifact, split: str) -> dict[str, list[FileRecord]]:
    """The shards of each domain of a split, in the order of the run file; domains without shards are left out."""
    found: dict[str, list[FileRecord]] = {}
    for domain in corpus.counts["domains"]:
        prefix = f"{split}/{domain}/"
        records = [file for file in corpus.manifest.files if file.path.startswith(prefix)]
        if records:
            found[domain] = sorted(records, key=lambda record: record.path)
    return found


def read_texts(uri: str, batch_bytes: int) -> Iterator[pa.Array]:
    """The texts of a shard, in order, in string arrays of about ``batch_bytes`` bytes at most (a longer text is alone).

    Memory: one Parquet row group.
    """
    for batch in read_documents(uri, batch_bytes, ["text"]):
        yield batch.column(0)


def read_documents(uri: str, batch_bytes: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns of a shard, ``text`` the first of them, in batches as ``read_texts`` gives."""
    with storage.open_file(uri) as file, pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(BATCH_ROWS, columns=list(columns)):
            texts = batch.column("text")
            sizes = np.asarray(pc.call_function("binary_length", [texts]))
            cuts = np.flatnonzero(np.diff(np.cumsum(sizes) // batch_bytes)) + 1
            for start, end in pairwise([0, *cuts.tolist(), len(texts)]):
                if end > start:
                    yield batch.slice(start, end - start)


def read_origins(uri: str, rows: Collection[int]) -> dict[int, dict[str, str]]:
    """Where documents of a shard come from.

    Args:
        uri: The shard.
        rows: Numbers of documents in it; only the row groups that hold one are read.

    Returns:
        By number the ``id`` and the ``source`` of the document.
    """
    found: dict[int, dict[str, str]] = {}
    with storage.open_file(uri) as file, pq.ParquetFile(file) as parquet:
        first = 0
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            here = [row for row in rows if first <= row < first + count]
            if here:
                table = parquet.read_row_group(group, columns=["id", "source"])
                values = table.take(pa.array([row - first for row in here])).to_pylist()
                found |= dict(zip(here, values, strict=True))
            first += count
    return found
