"""Packed conversations as prompts: where a reply stands, and what ends one."""

from rayllm.data.packing.rows import Segment
from rayllm.data.shards.packed import PackedData
from rayllm.data.shards.stream import TokenStream
from rayllm.tokenizer.chat.render import stop_ids
from rayllm.tokenizer.chat.template import read_template


def first_reply(stream: TokenStream, document: Segment) -> Segment:
    """The first reply in a conversation, with its end of turn.

    Args:
        stream: Packed conversations.
        document: The conversation's tokens, its separator first.
    """
    learnt = stream.read_mask(document.start, document.length)
    start = 1 + int(learnt[1:].argmax())
    unlearnt = ~learnt[start:]
    length = int(unlearnt.argmax()) if unlearnt.any() else len(unlearnt)
    return Segment(document.start + start, length)


def end_ids(packed: PackedData) -> list[int]:
    """The ids that end what a model writes: the separator, and what ends a reply."""
    template = read_template(packed.uri)
    return sorted({packed.separator_id, *(stop_ids(template, packed.codec()) if template else ())})
