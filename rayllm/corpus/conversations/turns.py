"""A conversation as a document: turns in its metadata, and a plain text of them for all that looks at texts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from rayllm.corpus.documents import Document, Unwanted

Role = Literal["system", "user", "assistant", "tool"]
#: Where a document's metadata holds its turns: a list of ``{"role": …, "content": …}``.
MESSAGES = "messages"
#: Where the metadata of a pair holds the reply that was not preferred; the preferred one ends its turns.
REJECTED = "rejected_reply"
#: Why a conversation from which nothing can be learnt is left out.
NO_REPLY = "no_reply"
#: Why a conversation with an empty reply before its last one is left out.
EMPTY_REPLY = "empty_reply"
#: Why a pair of which neither reply is better is left out.
NO_PREFERENCE = "no_preference"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    content: str


def conversation(
    turns: Sequence[Turn], source: str, id: str = "", metadata: Mapping[str, object] | None = None
) -> Document | Unwanted:
    """Make a document of turns.

    Empty system turns go, and so does what stands after the last reply: nobody answers it. With an empty reply before
    that the conversation is unwanted: what follows would answer nothing, and training would learn to say nothing.

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
    if not replies:
        return Unwanted(document, NO_REPLY)
    silent = len(replies) < sum(turn.role == "assistant" for turn in kept)
    return Unwanted(document, EMPTY_REPLY) if silent else document


def preference(
    prompt: Sequence[Turn],
    chosen: str,
    rejected: str,
    source: str,
    id: str = "",
    metadata: Mapping[str, object] | None = None,
) -> Document | Unwanted:
    """Make a document of two replies to the same prompt, one of them preferred.

    Args:
        prompt: The turns that both replies answer.
        chosen: The reply that was preferred.
        rejected: The other one.
        source: Label of the file.
        id: Name of the pair; empty where it has none.
        metadata: More to keep beside the turns.
    """
    said = [turn for turn in prompt if turn.role != "system" or turn.content.strip()]
    replies = [chosen.strip(), rejected.strip()]
    document = _document(
        [*said, Turn("assistant", chosen)], Document("", source, id, {**(metadata or {}), REJECTED: rejected})
    )
    if not all(replies):
        return Unwanted(document, NO_REPLY)
    return Unwanted(document, NO_PREFERENCE) if replies[0] == replies[1] else document


def is_conversation(document: Document) -> bool:
    """Whether a document has turns."""
    return MESSAGES in document.metadata


def with_clean_turns(document: Document, clean: Callable[[str], str]) -> Document:
    """The same conversation with each turn's text cleaned by itself, so that none runs into the next."""
    messages = cast(Sequence[Mapping[str, str]], document.metadata[MESSAGES])
    turns = [Turn(cast(Role, message["role"]), clean(message["content"])) for message in messages]
    if REJECTED in document.metadata:
        rejected = clean(cast(str, document.metadata[REJECTED]))
        document = dataclasses.replace(document, metadata={**document.metadata, REJECTED: rejected})
    return _document(turns, document)


def readable(turns: Sequence[Turn]) -> str:
    """The turns as one text, each behind the name of its role."""
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}".rstrip() for turn in turns)


def _document(turns: Sequence[Turn], document: Document) -> Document:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    text = readable(turns)
    if REJECTED in document.metadata:
        text += f"\n\nAssistant, not preferred: {document.metadata[REJECTED]}"
    return dataclasses.replace(document, text=text, metadata={**document.metadata, MESSAGES: messages})
