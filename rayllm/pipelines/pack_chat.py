"""The part of pack that is about conversations: what its tasks need to write them, and what became of them."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from rayllm.core.errors import DataError
from rayllm.core.log import get_logger
from rayllm.data.shards.conversations import ConversationPacker
from rayllm.data.shards.format import ConversationCounts, PackedIndex, ShardRecord
from rayllm.data.shards.writer import ShardWriter
from rayllm.pipelines.corpus_shards import read_documents
from rayllm.tokenizer.chat.config import ChatConfig, JinjaFile, Truncate
from rayllm.tokenizer.chat.render import Renderer
from rayllm.tokenizer.chat.template import ChatTemplate, load_template, write_template
from rayllm.tokenizer.codec import Codec

logger = get_logger(__name__)


class ChatTask(BaseModel):
    """How the conversations of a shard are written."""

    model_config = ConfigDict(frozen=True)

    template: ChatTemplate
    max_tokens: int
    truncate: Truncate

    def renderer(self, codec: Codec) -> Renderer:
        """What writes them.

        Raises:
            ConfigError: If the template cannot be used with this tokenizer.
        """
        return Renderer(self.template, codec, self.max_tokens, self.truncate)


def template_digest(config: ChatConfig | None) -> dict[str, str]:
    """Hash of the template's text where a file of the user's holds it; else nothing."""
    if config is None or not isinstance(config.template, JinjaFile):
        return {}
    return {"chat_template": hashlib.sha256(load_template(config).source.encode()).hexdigest()}


def append_conversations(
    chat: ChatTask, codec: Codec, writer: ShardWriter, uri: str, batch_bytes: int
) -> ConversationCounts | None:
    """Write a file of the corpus, documents of which some have turns; returns what became of those."""
    packer = ConversationPacker(writer, chat.renderer(codec), codec)
    for batch in read_documents(uri, batch_bytes, ["text", "metadata"]):
        packer.append(batch.column("text"), batch.column("metadata"))
    return packer.counts()


def chat_task(config: ChatConfig | None, codec: Codec, directory: str) -> ChatTask | None:
    """What encoders need to write conversations; the template is left beside the tokenizer.

    Raises:
        ConfigError: If the template is not there, or cannot be used with this tokenizer.
    """
    if config is None:
        return None
    chat = ChatTask(template=load_template(config), max_tokens=config.max_tokens, truncate=config.truncate)
    chat.renderer(codec)
    write_template(chat.template, directory)
    return chat


def check_conversations(index: PackedIndex) -> None:
    """Say what was left out of conversations, and refuse a domain of which nothing is left.

    Raises:
        DataError: If there is one.
    """
    for split, domains in index.splits.items():
        for domain, shards in domains.items():
            counts = conversation_counts(shards)
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.get("dropped", {}).items())
            if counts and not sum(shard.documents for shard in shards):
                raise DataError(
                    "no conversation of a domain is left",
                    where=f"{split}/{domain}",
                    why=f"left out: {reasons}",
                    fix="raise pack.chat.max_tokens, set pack.chat.truncate, or choose another template",
                )
            if counts:
                logger.info(
                    "%s/%s: %s conversations, %s truncated, left out: %s",
                    split,
                    domain,
                    f"{counts['conversations']:,}",
                    f"{counts['truncated']:,}",
                    reasons or "none",
                )


def conversation_counts(shards: Sequence[ShardRecord]) -> dict[str, Any]:
    """What became of a domain's conversations; nothing where it has none."""
    found = [shard.conversations for shard in shards if shard.conversations is not None]
    if not found:
        return {}
    dropped: Counter[str] = Counter()
    for one in found:
        dropped.update(one.dropped)
    return {
        "conversations": sum(one.kept for one in found),
        **({"pairs": pairs} if (pairs := sum(one.pairs for one in found)) else {}),
        "truncated": sum(one.truncated for one in found),
        "learnt_tokens": sum(one.learnt_tokens for one in found),
        "dropped": dict(sorted(dropped.items())),
    }
