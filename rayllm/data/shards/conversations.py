"""Documents with turns to flat tokens and a mask; plain documents among them stay as they are, learnt whole.

In: the texts of a corpus file and their metadata, batch after batch. Out: the same as ``flatten``, the mask of what is
learnt, and counts. A document in which nothing is to be learnt is left out.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from rayllm.core.log import get_logger
from rayllm.data.shards.format import ConversationCounts
from rayllm.data.shards.writer import ShardWriter
from rayllm.tokenizer.chat.render import Dropped, Rendered, Renderer
from rayllm.tokenizer.codec import Codec

logger = get_logger(__name__)

#: Where the corpus holds a document's turns.
MESSAGES = "messages"


@dataclass
class ConversationPacker:
    """Appends documents to one shard.

    The mask of a separator is that of the end of the document before it. Before a shard's first one stands the last
    document of another shard, which nobody knows here: in a shard of conversations its end is not learnt.

    Attributes:
        writer: The shard.
        renderer: Writes conversations.
        codec: Encodes plain documents.
    """

    writer: ShardWriter
    renderer: Renderer
    codec: Codec
    _end_learnt: bool | None = None
    _kept: int = 0
    _truncated: int = 0
    _learnt: int = 0
    _dropped: Counter[str] = field(default_factory=Counter)
    _dropped_rows: list[int] = field(default_factory=list)
    _rows: int = 0

    def append(self, texts: pa.Array, metadata: pa.Array) -> None:
        """Add the next documents of the corpus file.

        Args:
            texts: Their texts.
            metadata: Their metadata, as JSON.

        Raises:
            DataError: If the template cannot be used for a conversation.
        """
        plain = texts.to_pylist()
        kept: list[tuple[Rendered, int]] = []
        for document, text in zip(self._documents(plain, metadata.to_pylist()), plain, strict=True):
            if isinstance(document, Dropped):
                self._drop(document)
            else:
                kept.append((document, len(text.encode())))
            self._rows += 1
        if kept:
            self._write([document for document, _ in kept], sum(size for _, size in kept))

    def counts(self) -> ConversationCounts | None:
        """What became of the conversations; None if there were none."""
        if not self._kept and not self._dropped:
            return None
        return ConversationCounts(
            kept=self._kept,
            truncated=self._truncated,
            learnt_tokens=self._learnt,
            dropped=dict(sorted(self._dropped.items())),
            dropped_rows=self._dropped_rows,
        )

    def _documents(self, texts: Sequence[str], metadata: Sequence[str]) -> list[Rendered | Dropped]:
        """All documents as tokens, in their order."""
        turns = [json.loads(text).get(MESSAGES) for text in metadata]
        conversations = iter(self.renderer.render([messages for messages in turns if messages is not None]))
        buffer = self.codec.encode_to_buffer(
            [text for text, messages in zip(texts, turns, strict=True) if messages is None]
        )
        ends = np.cumsum(buffer.lengths)
        plain = iter(zip((ends - buffer.lengths).tolist(), ends.tolist(), strict=True))
        found: list[Rendered | Dropped] = []
        for messages in turns:
            if messages is None:
                start, end = next(plain)
                ids = buffer.ids[start:end].astype(np.int64)
                found.append(Rendered(ids, np.ones(len(ids), bool), end_learnt=True))
                continue
            conversation = next(conversations)
            self._count(conversation)
            found.append(conversation)
        return found

    def _count(self, conversation: Rendered | Dropped) -> None:
        if isinstance(conversation, Rendered):
            self._kept += 1
            self._truncated += conversation.truncated
            self._learnt += int(conversation.learnt.sum()) + conversation.end_learnt

    def _drop(self, dropped: Dropped) -> None:
        if not self._dropped[dropped.reason]:
            logger.warning("a conversation is left out: %s: %s", dropped.reason, dropped.detail)
        self._dropped[dropped.reason] += 1
        self._dropped_rows.append(self._rows)

    def _write(self, documents: Sequence[Rendered], text_bytes: int) -> None:
        separator = np.array([self.codec.separator_id])
        lengths = np.array([len(document.ids) + 1 for document in documents])
        tokens = np.concatenate([part for document in documents for part in (separator, document.ids)])
        if self._end_learnt is None:
            self._end_learnt = bool(documents[0].learnt.all())
        ends = [self._end_learnt, *(document.end_learnt for document in documents)]
        mask = np.concatenate(
            [
                part
                for end, document in zip(ends, documents, strict=False)
                for part in (np.array([end], bool), document.learnt)
            ]
        )
        self._end_learnt = documents[-1].end_learnt
        starts = np.cumsum(lengths) - lengths
        self.writer.append(tokens, starts, text_bytes, None if mask.all() else mask)
