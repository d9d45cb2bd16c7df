"""Prompts for samples in the loop: the beginnings of validation documents, of conversations all up to the reply."""

from collections.abc import Sequence

from rayllm.data.packing.rows import Segment
from rayllm.data.replies import first_reply
from rayllm.data.shards.packed import PackedData


def sample_prompts(packed: PackedData, domains: Sequence[str], prompt_tokens: int, context: int) -> list[list[int]]:
    """The ids that a sample of each validation domain begins with, the separator first.

    Args:
        packed: The data.
        domains: Its validation domains.
        prompt_tokens: Tokens of a document to give, at most half of ``context``.
        context: Tokens that the model can see.
    """
    chats = packed.chat_domains("validation")
    return [
        _question(packed, name, context // 2) if name in chats else _beginning(packed, name, prompt_tokens, context)
        for name in domains
    ]


def _beginning(packed: PackedData, domain: str, prompt_tokens: int, context: int) -> list[int]:
    stream = packed.stream("validation", domain)
    return stream.read(0, min(1 + min(prompt_tokens, context // 2 - 1), stream.num_tokens)).tolist()


def _question(packed: PackedData, domain: str, longest: int) -> list[int]:
    """The first conversation up to its first reply, of a long one the end of that."""
    stream = packed.stream("validation", domain)
    starts = stream.document_starts()
    end = int(starts[1]) if len(starts) > 1 else stream.num_tokens
    reply = first_reply(stream, Segment(0, end))
    return stream.read(0, reply.start).tolist()[-longest:]
