"""A conversation as a document: turns in its metadata, and a plain text of them for all that looks at texts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from rayllm.corpus.documents import Document, Unwanted

Role = Literal["system", "user", "assistant", "tool"]
#: Where a document's metadata holds its turns: a list of ``{"role": …, "content": …}``.
MESSAGES = "messages"
#: Why a conversation from which nothing can be learnt is left out.
NO_REPLY = "no_reply"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    content: str


def conversation(
    turns: Sequence[Turn], source: str, id: str = "", metadata: Mapping[str, object] | None = None
) -> Document | Unwanted:
    """Make a document of turns.

    Empty system turns go, and so does what stands after the last reply: nobody answers it.

    Args:
        turns: In their order.
        source: Label of the file.
        id: Name of the conversation; empty where it has none.
        metadata: More to keep beside the turns.
    """
    said = [turn for turn in turns if turn.role != "system" or turn.content.strip()]
    replies = [place for place, turn in enumerate(said) if turn.role == "assistant" and turn.content.strip()]
    kept = said[: replies[-1] + 1] if replies else said
    document = _document(kept, Document("", source, id, metadata or {}))
    return document if replies else Unwanted(document, NO_REPLY)


def is_conversation(document: Document) -> bool:
    """Whether a document has turns."""
    return MESSAGES in document.metadata


def with_clean_turns(document: Document, clean: Callable[[str], str]) -> Document:
    """The same conversation with each turn's text cleaned by itself, so that none runs into the next."""
    messages = cast(Sequence[Mapping[str, str]], document.metadata[MESSAGES])
    turns = [Turn(cast(Role, message["role"]), clean(message["content"])) for message in messages]
    return _document(turns, document)


def readable(turns: Sequence[Turn]) -> str:
    """The turns as one text, each behind the name of its role."""
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}".rstrip() for turn in turns)


def _document(turns: Sequence[Turn], document: Document) -> Document:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    return dataclasses.replace(document, text=readable(turns), metadata={**document.metadata, MESSAGES: messages})
