"""Best-fit indexes on disk: worked out once for each length, found again by what they were made from.

In: packed data, a domain, the length of a row. Out: its ``BestFitIndex``, memory-mapped. It lies beside the shards,
``index/<split>/<domain>/best_fit-<seq_len>.safetensors``, or in the node's cache where the packed data is remote or may
not be written. It can be deleted at any time: it follows from the document bounds alone. A file that was made from
other bounds, or whose bytes differ from its hash, is made again.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from rayllm.core import storage
from rayllm.core.artifact import content_hash
from rayllm.core.errors import DataError
from rayllm.core.log import get_logger
from rayllm.data.mixing.plan import Packing, Plan, RowIndex
from rayllm.data.packing.best_fit import RowTable, pack_documents
from rayllm.data.packing.rows import BestFitRows, Rows, Slices, fill_of
from rayllm.data.shards.cache import default_cache_dir
from rayllm.data.shards.packed import PackedData

logger = get_logger(__name__)

#: Raised when the same documents would make other rows.
VERSION = 1
DTYPES = {"first_segment": np.dtype("<i8"), "start": np.dtype("<i8"), "length": np.dtype("<u4")}


@dataclass(frozen=True)
class BestFitIndex:
    """The rows of one length of one domain.

    Attributes:
        table: Which tokens make which row.
        sha256: Hash of what it was made from and of the table.
    """

    table: RowTable
    sha256: str


def open_index(packed: PackedData, split: str, domain: str, seq_len: int) -> BestFitIndex:
    """The best-fit index of a domain for one length, made now if there is none that holds.

    Several processes may ask at once: one makes it, the others wait.

    Raises:
        DataError: If there is no such domain.
        ArtifactDamaged: If the document bounds cannot be read.
    """
    stream = packed.stream(split, domain)
    shards = [[record.tokens, record.documents, record.bounds_sha256] for record in stream.records]
    source = content_hash({"kind": "best_fit", "version": VERSION, "seq_len": seq_len, "shards": shards})
    beside = storage.join(packed.uri, "index", split, domain, f"best_fit-{seq_len}.safetensors")
    cache = (packed.cache_dir or default_cache_dir()) / "index" / source[:2] / f"{source}.safetensors"
    places = [cache]
    if storage.is_local(packed.uri):
        places.insert(0, storage.local_path(beside))
    for path in places:
        if (found := _load(path, source)) is not None:
            return found
    path = next((path for path in places[:-1] if _may_write(path)), cache)
    with _locked(path):
        if (found := _load(path, source)) is not None:
            return found
        if path.exists():
            logger.warning("%s is made again: it is damaged, or was made from other documents", path)
        table = pack_documents(stream.document_starts(), stream.num_tokens, seq_len)
        _save(path, table, source)
    return BestFitIndex(table, _table_hash(table, source))


def index_row(packed: PackedData, split: str, seq_len: int) -> RowIndex:
    """What a plan notes of the rows of a length, for all domains of a split."""
    found = [open_index(packed, split, domain, seq_len) for domain in packed.domains(split)]
    return RowIndex(seq_len, tuple(index.table.num_rows for index in found), tuple(index.sha256 for index in found))


def open_rows(packed: PackedData, split: str, domain: str, seq_len: int, packing: Packing) -> Rows:
    """The rows of one length of a domain, without a plan."""
    if packing == "best_fit":
        return BestFitRows(open_index(packed, split, domain, seq_len).table)
    return Slices(max(packed.stream(split, domain).num_tokens - 1, 0) // seq_len, seq_len)


def planned_rows(packed: PackedData, split: str, plan: Plan) -> dict[int, list[Rows]]:
    """The rows that a plan draws from: for every length in it those of each domain.

    Raises:
        DataError: If an index is not the one that the run was planned with.
    """
    return {length: _rows_of_length(packed, split, plan, length) for length in {row.seq_len for row in plan.stages}}


def slices_of(plan: Plan, seq_len: int) -> list[Rows]:
    """Rows of concatenated documents, for each domain: as many as its whole blocks are cut into."""
    return [Slices(blocks * (plan.block_tokens // seq_len), seq_len) for blocks in plan.domain_blocks]


def _rows_of_length(packed: PackedData, split: str, plan: Plan, seq_len: int) -> list[Rows]:
    noted = plan.index(seq_len)
    if noted is None:
        return slices_of(plan, seq_len)
    rows: list[Rows] = []
    for domain, sha256 in zip(plan.domains, noted.sha256, strict=True):
        index = open_index(packed, split, domain, seq_len)
        if index.sha256 != sha256:
            raise DataError(
                "the best-fit index is not the one that this run was planned with",
                where=f"{packed.uri}, {split}/{domain}, rows of {seq_len:,} tokens",
                why=f"its hash is {index.sha256[:12]}; the plan has {sha256[:12]}",
                fix="restore the packed artifact and the version of rayllm that the run was started with, or start a "
                "new run",
            )
        rows.append(BestFitRows(index.table))
    return rows


def describe_fill(packed: PackedData, plan: Plan, split: str = "train") -> list[str]:
    """A line for every length and domain of a plan: how many documents are cut, and what is padding."""
    lines = []
    for length, domains in sorted(planned_rows(packed, split, plan).items()):
        for domain, rows in zip(plan.domains, domains, strict=True):
            stream = packed.stream(split, domain)
            fill = fill_of(rows, stream.document_starts(), stream.num_tokens, length)
            lines.append(f"{plan.packing} packing of {domain}: {fill.describe(length)}")
    return lines


def _save(path: Path, table: RowTable, source: str) -> None:
    arrays = {name: np.ascontiguousarray(getattr(table, name), dtype) for name, dtype in DTYPES.items()}
    # One entry only: the format's writer keeps no order among several, and the same index should be the same bytes.
    noted = json.dumps({"kind": "best_fit", "source": source, "sha256": _table_hash(table, source)})
    storage.write_bytes(str(path), save(arrays, {"index": noted}))


def _load(path: Path, source: str) -> BestFitIndex | None:
    """Map a file; None where there is none, or it was made from something else, or it is damaged."""
    if not path.is_file():
        return None
    try:
        data = np.memmap(path, np.uint8, mode="r")
        size = int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8 : 8 + size].tobytes())
        body, noted = data[8 + size :], json.loads(header["__metadata__"]["index"])
        if noted["source"] != source:
            return None
        table = RowTable(**{name: body[slice(*header[name]["data_offsets"])].view(t) for name, t in DTYPES.items()})
    except (ValueError, KeyError, TypeError):  # the header is damaged, or it is another file
        return None
    return BestFitIndex(table, noted["sha256"]) if _table_hash(table, source) == noted["sha256"] else None


def _table_hash(table: RowTable, source: str) -> str:
    digest = hashlib.sha256(source.encode())
    for name, dtype in DTYPES.items():
        digest.update(np.ascontiguousarray(getattr(table, name), dtype).data)
    return digest.hexdigest()


def _may_write(path: Path) -> bool:
    """Whether a file may be made here; its directory is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path.parent, os.W_OK)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
