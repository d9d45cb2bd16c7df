"""Conversations to ids and a mask: what is learnt are the replies and the end of their turns, nothing else.

A template's markers become the special tokens of that name. The text of a turn never does: names of special tokens
in it are taken apart before the template sees them, and put together again afterwards, when markers have been found.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import jinja2
import numpy as np
from jaxtyping import Bool, Int64

from rayllm.core.errors import ConfigError, DataError
from rayllm.tokenizer.chat.config import Truncate
from rayllm.tokenizer.chat.template import RESERVED, ChatTemplate, Message, Span
from rayllm.tokenizer.codec import Codec

#: Put into names of special tokens in the text of turns.
_GUARD = "\ufdd2"
#: Why a conversation is left out.
TOO_LONG, REFUSED, RESERVED_CHARACTER, NO_REPLY = "too_long", "refused_by_template", "reserved_character", "no_reply"
#: The same, where a template writes nothing before the only reply: there would be no prompt that it replies to.
NO_PROMPT = "no_prompt"
#: Why a pair is left out: what stands before its replies differs, or the replies do not.
PROMPTS_DIFFER, NO_PREFERENCE = "prompts_differ", "no_preference"
#: A conversation that every template should take.
PROBE: tuple[Message, ...] = ({"role": "user", "content": "Ask."}, {"role": "assistant", "content": "Answer."})
#: Writes the separator. The comment takes the end of the line with it, so that what follows begins a line as before.
_FIRST = "{{- bos_token }}{# conversations were learnt behind this token #}\n"


class Piece(NamedTuple):
    """A stretch of a rendered conversation.

    Attributes:
        text: Ordinary text, or the name of a special token.
        special: The token's id; None for text.
        learnt: Whether it is to be learnt.
    """

    text: str
    special: int | None
    learnt: bool


@dataclass(frozen=True, eq=False)
class Rendered:
    """A conversation as tokens, without the separator before it.

    Attributes:
        ids: Its tokens.
        learnt: Which of them are to be learnt.
        end_learnt: Whether the end of the document is, that is the separator that follows.
        truncated: Whether a part of it is left out.
    """

    ids: Int64[np.ndarray, " tokens"]
    learnt: Bool[np.ndarray, " tokens"]
    end_learnt: bool
    truncated: bool = False


@dataclass(frozen=True)
class Dropped:
    """A conversation that is left out.

    Attributes:
        reason: Short name that counts are kept by.
        detail: What is wrong with it, for a person.
    """

    reason: str
    detail: str = ""


class Renderer:
    """Writes conversations with one template for one tokenizer.

    Args:
        template: The template.
        codec: The tokenizer.
        max_tokens: Longest document, its separator included.
        truncate: What becomes of longer ones.

    Raises:
        ConfigError: If the tokenizer lacks a token of the template, or the template cannot be used.
    """

    def __init__(self, template: ChatTemplate, codec: Codec, max_tokens: int, truncate: Truncate) -> None:
        self._template, self._codec = template, codec
        self.max_tokens, self._max_ids, self._truncate = max_tokens, max_tokens - 1, truncate
        added = codec.tokenizer.get_added_tokens_decoder()
        self._special = {token.content: index for index, token in added.items() if token.special}
        names = sorted(map(re.escape, self._special), key=len, reverse=True)
        self._names = re.compile("|".join(names))
        self._separator = added[codec.separator_id].content
        self._check()

    def render(self, conversations: Sequence[Sequence[Message]]) -> list[Rendered | Dropped]:
        """Write conversations, in their order; all of their text is encoded at once."""
        found = [self._pieces(messages) for messages in conversations]
        whole = iter(self._encode([pieces for pieces in found if not isinstance(pieces, Dropped)]))
        return [
            pieces if isinstance(pieces, Dropped) else self._fit(next(whole), messages)
            for pieces, messages in zip(found, conversations, strict=True)
        ]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens after which a reply is to be written, the separator first.

        Raises:
            ConfigError: If the template refuses the conversation.
        """
        guarded = [{**message, "content": self._guarded(message["content"])} for message in messages]
        try:
            text, replies = self._template.render(guarded, self._separator, prompt=True)
        except jinja2.TemplateError as error:
            raise ConfigError(
                "the chat template refuses the conversation",
                where=f"chat template {self._template.name}",
                why=str(error),
                fix="use a template that takes these turns, or write the prompt as this one would, without --chat",
            ) from error
        pieces, _ = self._without_separators(list(self._cut(text, replies)))
        (prompt,) = self._encode([(pieces, False)])
        return [self._codec.separator_id, *prompt.ids.tolist()]

    def stop_ids(self) -> list[int]:
        """The tokens that end a reply."""
        pieces = self._pieces(PROBE)
        assert not isinstance(pieces, Dropped), "checked at the start"
        parts, end_learnt = pieces
        ends = {piece.special for piece in parts if piece.learnt and piece.special is not None}
        return sorted(ends | ({self._codec.separator_id} if end_learnt or not ends else set()))

    def _check(self) -> None:
        """Refuse at the start what no conversation could be written with."""
        lacking = [name for name in self._template.needs if name not in self._special]
        if lacking:
            raise ConfigError(
                f"the tokenizer has no special token {lacking[0]!r}, which the chat template writes",
                where=f"pack.chat.template: {self._template.name}",
                why=f"its special tokens are {', '.join(list(self._special)[:12])}",
                fix="use a template of plain text (user_assistant, alpaca), or a tokenizer that has it; name it in "
                "pack.chat.text_markers if it is meant as text",
            )
        try:
            pieces = self._pieces(PROBE)
        except DataError as error:
            raise ConfigError(error.what, where=error.where, why=error.why, fix=error.fix) from error
        if isinstance(pieces, Dropped) or not any(piece.learnt for piece in pieces[0]):
            raise ConfigError(
                "nothing could be learnt from a conversation in this chat template",
                where=f"pack.chat.template: {self._template.name}",
                why=pieces.detail if isinstance(pieces, Dropped) else "it writes no reply",
                fix="look at what it makes of a user's and an assistant's turn",
            )
        if _all_learnt([piece.learnt for piece in pieces[0]]):
            raise ConfigError(
                "all of a conversation would be learnt in this chat template",
                where=f"pack.chat.template: {self._template.name}",
                why="nothing before the end of the last reply is outside of {% generation %}",
                fix="put {% generation %} and {% endgeneration %} around replies and the end of their turns only",
            )

    def _pieces(self, messages: Sequence[Message]) -> tuple[list[Piece], bool] | Dropped:
        """A conversation in pieces, and whether its end is to be learnt."""
        if any(RESERVED.intersection(message["content"]) for message in messages):
            return Dropped(RESERVED_CHARACTER, "the text has noncharacters of Unicode (U+FDD0 to U+FDEF)")
        guarded = [{**message, "content": self._guarded(message["content"])} for message in messages]
        try:
            text, replies = self._template.replies(guarded, self._separator)
        except jinja2.TemplateError as error:
            return Dropped(REFUSED, str(error))
        pieces = list(self._cut(text, replies))
        if not self._template.marks_replies:
            self._check_boundaries(text, replies)
            pieces = _without_blank_ends(pieces)
        return self._without_separators(pieces)

    def _guarded(self, text: str) -> str:
        return self._names.sub(lambda match: f"{match[0][0]}{_GUARD}{match[0][1:]}", text)

    def _cut(self, text: str, replies: Sequence[Span]) -> Iterator[Piece]:
        """Cut a rendered text at special tokens and at the edges of replies."""
        specials = [Span(*match.span()) for match in self._names.finditer(text)]
        inner = {span.start for span in specials} | {span.end for span in specials}
        edges = sorted({0, len(text), *inner, *(edge for span in replies for edge in span)})
        names = {span.start for span in specials}
        reply = 0
        for start, end in pairwise(edges):
            while reply < len(replies) and replies[reply].end <= start:
                reply += 1
            learnt = reply < len(replies) and replies[reply].start <= start
            name = text[start:end] if start in names else ""
            yield Piece(name or text[start:end].replace(_GUARD, ""), self._special.get(name), learnt)

    def _check_boundaries(self, text: str, replies: Sequence[Span]) -> None:
        """Make sure that a reply begins with a new token, so that the prompt's tokens are those of generation.

        Raises:
            DataError: If prompt and reply together have other tokens than one after the other.
        """
        for span in replies:
            before = [match.end() for match in self._names.finditer(text, 0, span.start)]
            after = self._names.search(text, span.start, span.end)
            prompt = text[before[-1] if before else 0 : span.start].replace(_GUARD, "")
            reply = text[span.start : after.start() if after else span.end].replace(_GUARD, "")
            if self._codec.encode(prompt) + self._codec.encode(reply) != self._codec.encode(prompt + reply):
                raise DataError(
                    "a reply begins within a token of its prompt",
                    where=f"chat template {self._template.name}",
                    why=f"{prompt[-20:]!r} and {reply[:20]!r} have other tokens together than one after the other",
                    fix="let the prompt end before the blank (`Assistant:`, not `Assistant: `), or mark replies with "
                    "{% generation %}",
                )

    def _without_separators(self, pieces: Sequence[Piece]) -> tuple[list[Piece], bool]:
        """Leave to the packing what it writes itself: the separator before a document, and the one after it.

        Raises:
            DataError: If the template writes one in the middle: there the document would end.
        """
        kept, separator = list(pieces), self._codec.separator_id
        while kept and kept[0].special == separator:
            kept.pop(0)
        if any(piece.special == separator for piece in kept) and kept[-1].special is None and not kept[-1].text.strip():
            kept.pop()
        ended = bool(kept) and kept[-1].special == separator
        end_learnt = ended and kept[-1].learnt
        while kept and kept[-1].special == separator:
            kept.pop()
        if any(piece.special == separator for piece in kept):
            raise DataError(
                "the chat template ends documents in the middle of a conversation",
                where=f"chat template {self._template.name}",
                why=f"it writes {self._separator!r} after a turn that is not the last; what follows would not see it",
                fix="use a template whose turns end with a token of their own (chatml), or one that ends the last "
                "turn only",
            )
        if not ended and kept:
            end_learnt = kept[-1].learnt and kept[-1].special is None
        return kept, end_learnt

    def _encode(self, conversations: Sequence[tuple[Sequence[Piece], bool]]) -> Iterator[Rendered]:
        """Make tokens of pieces."""
        texts = [piece.text for pieces, _ in conversations for piece in pieces if piece.special is None]
        buffer = self._codec.encode_to_buffer(texts)
        parts = iter(np.split(buffer.ids.astype(np.int64), np.cumsum(buffer.lengths)[:-1]) if texts else ())
        for pieces, end_learnt in conversations:
            ids = [next(parts) if piece.special is None else np.array([piece.special]) for piece in pieces]
            learnt = np.repeat([piece.learnt for piece in pieces], [len(part) for part in ids])
            yield Rendered(np.concatenate([np.empty(0, np.int64), *ids]), learnt.astype(bool), end_learnt)

    def _fit(self, whole: Rendered, messages: Sequence[Message]) -> Rendered | Dropped:
        """The conversation, or what may stay of it."""
        if len(whole.ids) <= self._max_ids:
            return _with_both(whole)
        if self._truncate == "left":
            return self._shorter(messages)
        kept = whole.learnt[: self._max_ids]
        if self._truncate == "right" and kept.any():
            return _with_both(Rendered(whole.ids[: self._max_ids], kept, end_learnt=False, truncated=True))
        return Dropped(TOO_LONG, f"{len(whole.ids) + 1:,} tokens")

    def _shorter(self, messages: Sequence[Message]) -> Rendered | Dropped:
        """The latest exchanges that fit, behind what the system says."""
        system = [message for message in messages[:1] if message["role"] == "system"]
        begins = [at for at, message in enumerate(messages) if message["role"] == "user" and at > len(system)]
        for at in begins:
            pieces = self._pieces([*system, *messages[at:]])
            if isinstance(pieces, Dropped):
                return pieces
            (found,) = self._encode([pieces])
            if len(found.ids) <= self._max_ids and found.learnt.any():
                return Rendered(found.ids, found.learnt, found.end_learnt, truncated=True)
        return Dropped(TOO_LONG, "not even its last exchange fits")


def _with_both(found: Rendered) -> Rendered | Dropped:
    """The conversation, if it has both: something that is learnt, and something before it that is only read."""
    if not found.learnt.any():
        return Dropped(NO_REPLY, "no token of a reply in it")
    return Dropped(NO_PROMPT, "nothing before its replies: all would be learnt") if _all_learnt(found.learnt) else found


def _all_learnt(learnt: Sequence[bool] | Bool[np.ndarray, " tokens"]) -> bool:
    """Whether nothing is only read before the last that is learnt."""
    return bool(np.all(learnt[: len(learnt) - int(np.argmax(learnt[::-1]))]))


def as_pair(chosen: Rendered, rejected: Rendered, max_tokens: int) -> tuple[Rendered, Rendered] | Dropped:
    """Two conversations that differ in their last reply, of which only that is to be learnt.

    Args:
        chosen: The one whose reply was preferred.
        rejected: The other one.
        max_tokens: Of both together, their separators included, at most.
    """
    if (total := len(chosen.ids) + len(rejected.ids) + 2) > max_tokens:
        return Dropped(TOO_LONG, f"{total:,} tokens with both replies")
    starts = [_last_reply(side.learnt) for side in (chosen, rejected)]
    if starts[0] != starts[1] or not np.array_equal(chosen.ids[: starts[0]], rejected.ids[: starts[1]]):
        return Dropped(PROMPTS_DIFFER, "the template writes other tokens before the one reply than before the other")
    if np.array_equal(chosen.ids, rejected.ids):
        return Dropped(NO_PREFERENCE, "both replies are the same tokens")
    return _only_from(chosen, starts[0]), _only_from(rejected, starts[1])


def _last_reply(learnt: Bool[np.ndarray, " tokens"]) -> int:
    """Where the last stretch of learnt tokens begins."""
    end = len(learnt) - int(learnt[::-1].argmax())
    before = np.flatnonzero(~learnt[:end])
    return int(before[-1]) + 1 if len(before) else 0


def _only_from(whole: Rendered, start: int) -> Rendered:
    return dataclasses.replace(whole, learnt=whole.learnt & (np.arange(len(whole.learnt)) >= start))


def _without_blank_ends(pieces: Iterable[Piece]) -> list[Piece]:
    """Do not learn the blanks behind a reply's end: a template writes them, not the model."""
    kept = list(pieces)
    for place, piece in enumerate(kept):
        ends = place + 1 == len(kept) or not kept[place + 1].learnt
        if piece.learnt and piece.special is None and ends and not piece.text.strip():
            kept[place] = piece._replace(learnt=False)
    return kept


def any_length(template: ChatTemplate, codec: Codec) -> Renderer:
    """A renderer that finds nothing too long, for prompts."""
    return Renderer(template, codec, max_tokens=1 << 40, truncate="drop")


def stop_ids(template: ChatTemplate, codec: Codec) -> list[int]:
    """The tokens that end a reply in a template."""
    return any_length(template, codec).stop_ids()


def with_separator(template: ChatTemplate, codec: Codec) -> ChatTemplate:
    """A template that writes the separator first: here the packing does, in other programs nobody.

    One whose conversations begin with it stays as it is.
    """
    separator = codec.tokenizer.get_added_tokens_decoder()[codec.separator_id].content
    text, _ = template.render(PROBE, separator)
    return template if text.startswith(separator) else template.model_copy(update={"source": _FIRST + template.source})
