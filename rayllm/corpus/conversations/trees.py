"""OpenAssistant's trees of replies: the one conversation that people judged best."""

from collections.abc import Mapping
from typing import Any

from rayllm.corpus.documents import UnusableRow

Message = Mapping[str, Any]
_UNRANKED = 1 << 30


def best_path(root: Message) -> list[Message]:
    """The messages from the root to a leaf, at each of them the reply of the best rank.

    Deleted replies and those that reviewers refused are not followed. Of replies without a rank the first is taken.

    Args:
        root: The prompt: ``text``, ``role`` and ``replies``, each a message again.

    Raises:
        UnusableRow: If something in the tree is not a message.

    Source: Köpf et al. 2023, OpenAssistant Conversations, arXiv:2304.07327, section 3.
    """
    path, message = [root], root
    while True:
        replies = message.get("replies") or []
        if not isinstance(replies, list) or not all(map(_is_message, replies)):
            raise UnusableRow("wrong_type", "a reply has no text or no role")
        good = [reply for reply in replies if not reply.get("deleted") and reply.get("review_result") is not False]
        if not good:
            return path
        message = min(good, key=_rank)
        path.append(message)


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("text"), str) and isinstance(value.get("role"), str)


def _rank(reply: Message) -> int:
    rank = reply.get("rank")
    return rank if isinstance(rank, int) else _UNRANKED
