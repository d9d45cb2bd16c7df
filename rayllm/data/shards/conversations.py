"""Documents with turns to flat tokens and a mask; plain documents among them stay as they are, learnt whole.

In: the texts of a corpus file and their metadata, batch after batch. Out: the same as ``flatten``, the mask of what is
learnt, and counts. A document in which nothing is to be learnt is left out. Of a pair of replies, each behind its
prompt, both become one document.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rayllm.core.log import get_logger
from rayllm.data.shards.format import ConversationCounts
from rayllm.data.shards.writer import ShardWriter
from rayllm.tokenizer.chat.render import Dropped, Rendered, Renderer, as_pair
from rayllm.tokenizer.chat.template import Message
from rayllm.tokenizer.codec import Codec

logger = get_logger(__name__)

#: Where the corpus holds a document's turns, and the reply that was not preferred to the last of them.
MESSAGES, REJECTED = "messages", "rejected_reply"
#: The parts of a document, each to be written behind a separator: one, or the two halves of a pair.
Parts = tuple[Rendered, ...]


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
    _pairs: int = 0
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
        kept: list[tuple[Parts, int]] = []
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
            pairs=self._pairs,
            truncated=self._truncated,
            learnt_tokens=self._learnt,
            dropped=dict(sorted(self._dropped.items())),
            dropped_rows=self._dropped_rows,
        )

    def _documents(self, texts: Sequence[str], metadata: Sequence[str]) -> list[Parts | Dropped]:
        """All documents as tokens, in their order."""
        turns = [_sides(json.loads(text)) for text in metadata]
        conversations = iter(self.renderer.render([messages for sides in turns for messages in sides]))
        buffer = self.codec.encode_to_buffer([text for text, sides in zip(texts, turns, strict=True) if not sides])
        ends = np.cumsum(buffer.lengths)
        plain = iter(zip((ends - buffer.lengths).tolist(), ends.tolist(), strict=True))
        found: list[Parts | Dropped] = []
        for sides in turns:
            if not sides:
                start, end = next(plain)
                ids = buffer.ids[start:end].astype(np.int64)
                found.append((Rendered(ids, np.ones(len(ids), bool), end_learnt=True),))
                continue
            conversation = self._joined([next(conversations) for _ in sides])
            if not isinstance(conversation, Dropped):
                self._count(conversation)
            found.append(conversation)
        return found

    def _joined(self, sides: Sequence[Rendered | Dropped]) -> Parts | Dropped:
        """A conversation, or both halves of a pair; where one half is left out, so is the other."""
        whole = [side for side in sides if isinstance(side, Rendered)]
        if len(whole) < len(sides):
            return next(side for side in sides if isinstance(side, Dropped))
        return (whole[0],) if len(whole) == 1 else as_pair(whole[0], whole[1], self.renderer.max_tokens)

    def _count(self, conversation: Parts) -> None:
        self._kept += 1
        self._pairs += len(conversation) == 2
        self._truncated += any(part.truncated for part in conversation)
        self._learnt += sum(int(part.learnt.sum()) + part.end_learnt for part in conversation)

    def _drop(self, dropped: Dropped) -> None:
        if not self._dropped[dropped.reason]:
            logger.warning("a conversation is left out: %s: %s", dropped.reason, dropped.detail)
        self._dropped[dropped.reason] += 1
        self._dropped_rows.append(self._rows)

    def _write(self, documents: Sequence[Parts], text_bytes: int) -> None:
        separator = np.array([self.codec.separator_id])
        lengths = np.array([sum(len(part.ids) + 1 for part in document) for document in documents])
        parts = [part for document in documents for part in document]
        tokens = np.concatenate([ids for part in parts for ids in (separator, part.ids)])
        if self._end_learnt is None:
            self._end_learnt = bool(parts[0].learnt.all())
        ends = [self._end_learnt, *(part.end_learnt for part in parts)]
        mask = np.concatenate(
            [learnt for end, part in zip(ends, parts, strict=False) for learnt in (np.array([end], bool), part.learnt)]
        )
        self._end_learnt = parts[-1].end_learnt
        starts = np.cumsum(lengths) - lengths
        self.writer.append(tokens, starts, text_bytes, None if mask.all() else mask)


def _sides(metadata: Mapping[str, Any]) -> list[list[Message]]:
    """The conversations that a document holds: none, one, or the two of a pair, the preferred one first."""
    messages = metadata.get(MESSAGES)
    if messages is None:
        return []
    if REJECTED not in metadata:
        return [messages]
    return [messages, [*messages[:-1], {"role": "assistant", "content": metadata[REJECTED]}]]
