"""Which documents stand in a row: from positions in a stream to shards, and to rows of the corpus.

In: a token stream and the segments of a row. Out: ``Passage``, one for each part of a document in it. A token shard is
made from the corpus file of the same name, document by document, so a document's number in the shard is its row in
that file, where no conversation was left out before it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from rayllm.data.packing.rows import Segment
from rayllm.data.shards.format import ShardRecord
from rayllm.data.shards.stream import TokenStream


@dataclass(frozen=True)
class Passage:
    """Consecutive tokens of one document in a row.

    Attributes:
        position: The first one's place in the row.
        length: How many.
        document: The document's number in the stream.
        offset: The first one's place in the document; 0 is the separator.
        document_tokens: Tokens of the whole document, its separator included.
        shard: Name of the token shard, and of the corpus file without ending.
        shard_token: The first one's place in the shard.
        shard_row: The document's row in the corpus file.
    """

    position: int
    length: int
    document: int
    offset: int
    document_tokens: int
    shard: str
    shard_token: int
    shard_row: int

    @property
    def is_whole(self) -> bool:
        """Whether the row holds all of the document."""
        return self.length == self.document_tokens


class Documents:
    """The documents of a stream, by position.

    Args:
        stream: The stream; its document bounds are read, its tokens are not.
    """

    def __init__(self, stream: TokenStream) -> None:
        self._records = stream.records
        self._starts = np.append(stream.document_starts(), stream.num_tokens)
        self._first_token = [0, *accumulate(record.tokens for record in self._records)]
        self._first_document = [0, *accumulate(record.documents for record in self._records)]

    def passages(self, segments: Sequence[Segment]) -> list[Passage]:
        """The parts of documents in a row, in the order of the row."""
        found, position = [], 0
        for start, length in segments:
            document = int(np.searchsorted(self._starts, start, side="right")) - 1
            at, end = start, start + length
            while at < end:
                stop = min(int(self._starts[document + 1]), end)
                found.append(self._passage(position, at, stop - at, document))
                position, at, document = position + stop - at, stop, document + 1
        return found

    def _passage(self, position: int, start: int, length: int, document: int) -> Passage:
        first, end = int(self._starts[document]), int(self._starts[document + 1])
        shard = bisect_right(self._first_document, document) - 1
        return Passage(
            position=position,
            length=length,
            document=document,
            offset=start - first,
            document_tokens=end - first,
            shard=self._records[shard].name,
            shard_token=start - self._first_token[shard],
            shard_row=_corpus_row(self._records[shard], document - self._first_document[shard]),
        )


def _corpus_row(record: ShardRecord, number: int) -> int:
    """The row of a shard's document: its number, and one more for each row left out before it."""
    row = number
    for left_out in record.conversations.dropped_rows if record.conversations else ():
        if left_out > row:
            break
        row += 1
    return row
