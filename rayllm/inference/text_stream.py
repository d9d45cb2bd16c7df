"""Ids to text while they come: a character is shown when all of its bytes are there."""

from collections.abc import Callable, Sequence

#: What a decoder puts where bytes are no UTF-8 (yet).
REPLACEMENT = "\ufffd"


class TextStream:
    """Decodes a growing sequence of ids.

    Only the ids since the last complete character are decoded again, so the cost of an id does not grow with the text.

    Args:
        decode: Ids to text, such as ``Codec.decode``.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._shown: list[int] = []  # ids of the last complete piece: context for decoders that look back
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """Take an id; the text that is complete now, often empty in the middle of a character."""
        self._pending.append(token)
        text = self._new_text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._shown, self._pending = self._pending, []
        return text

    def flush(self) -> str:
        """The rest, with replacement characters for what never became one."""
        text = self._new_text()
        self._shown, self._pending = [], []
        return text

    def _new_text(self) -> str:
        before = self._decode(self._shown)
        return self._decode([*self._shown, *self._pending])[len(before) :]
