"""Writing a shard: batches of tokens in, whole files with their hashes out.

Files appear under their names only when they are whole and on the disk; see ``data.shards.format`` for what they hold.
"""

import hashlib
import os
import tempfile
import uuid
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer

from rayllm.core import storage
from rayllm.data.shards.format import BOUNDS, BOUNDS_DTYPE, DTYPES, MASK, MASK_DTYPE, TOKENS, DTypeName, ShardRecord


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
