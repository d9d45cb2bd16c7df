"""The format of packed tokens: what ``packed.json`` and the files of a shard hold.

A packed directory holds ``packed.json`` and for every split and domain shards of two files: ``00000.tokens`` (flat
little-endian uint16, or uint32 where the vocabulary needs it) and ``00000.bounds`` (uint64: the token offset in the
shard of each document's separator); a third one, ``00000.mask`` (uint8 for each token: is it to be learnt?), where some
tokens are only read, as the prompts of conversations.

A pair of replies to one prompt is one document of two halves: the prompt with the reply that was preferred, then the
prompt with the other one, each behind a separator. So no packing takes a pair apart, and attention, which stays between
separators, keeps the halves apart.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from rayllm.core import storage
from rayllm.core.artifact import FileRecord, content_hash

PACKED_JSON = "packed.json"
TOKENS, BOUNDS, MASK = ".tokens", ".bounds", ".mask"
DTypeName = Literal["uint16", "uint32"]
DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
BOUNDS_DTYPE, MASK_DTYPE = np.dtype("<u8"), np.dtype("u1")


class ConversationCounts(BaseModel):
    """What became of the conversations of a shard's source.

    Attributes:
        kept: Those that are in the shard; a pair counts as one.
        pairs: Of these, those that are pairs of replies.
        truncated: Of these, those of which a part is left out.
        learnt_tokens: Their tokens that are to be learnt.
        dropped: Those that are not in it, by reason.
        dropped_rows: Their rows in the corpus file, ascending.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kept: int = 0
    pairs: int = 0
    truncated: int = 0
    learnt_tokens: int = 0
    dropped: dict[str, int] = {}
    dropped_rows: list[int] = []


class ShardRecord(BaseModel):
    """One shard: its name below the packed directory without ending, its sizes, and the SHA-256 of its files.

    ``conversations`` says what became of its source's conversations, where it has any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    tokens: int
    documents: int
    bytes: int
    tokens_sha256: str
    bounds_sha256: str
    mask_sha256: str | None = None
    conversations: ConversationCounts | None = None

    @property
    def is_chat(self) -> bool:
        """Whether all of its documents are conversations."""
        return self.conversations is not None and self.conversations.kept == self.documents

    @property
    def is_pairs(self) -> bool:
        """Whether all of its documents are pairs of replies."""
        return self.conversations is not None and self.conversations.pairs == self.documents

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

    def digest(self, split: str) -> str:
        """One hash of all tokens, bounds and masks of a split, in the order of its domains."""
        shards = {name: [shard.model_dump() for shard in found] for name, found in self.splits.get(split, {}).items()}
        return content_hash({"dtype": self.dtype, "shards": shards})

    def write(self, directory: str) -> None:
        """Write it as ``packed.json`` into the packed directory."""
        storage.write_text(storage.join(directory, PACKED_JSON), self.model_dump_json(indent=1, exclude_none=True))


def dtype_for(vocab_size: int) -> DTypeName:
    """The smallest dtype that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"
