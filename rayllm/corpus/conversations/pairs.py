"""The layouts in which preferences are published: two replies to the same prompt, one of them preferred.

| layout | a row has | known from |
|---|---|---|
| ``messages`` | ``chosen`` and ``rejected``, lists of ``role`` and ``content``; ``prompt`` in them or before | TRL |
| ``sharegpt`` | ``conversations`` of ``from`` and ``value``; ``chosen`` and ``rejected``, a turn each | LLaMA-Factory |
| ``transcripts`` | ``chosen`` and ``rejected``, texts of ``Human:`` and ``Assistant:`` turns | HH-RLHF |
| ``alpaca`` | ``instruction``, ``input``, ``chosen`` and ``rejected``, texts | Alpaca-style pairs |
| ``outputs`` | ``instruction``, ``input``, ``output_1``, ``output_2``, ``preference`` (1 or 2) | AlpacaFarm |
| ``prompt`` | ``prompt`` (or ``question``), ``chosen`` and ``rejected``, texts | TRL, Orca pairs |

In: a row. Out: a ``Pair``. The two must have all turns but the last in common, word for word: a comparison of replies
to different prompts says nothing about either.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayllm.corpus.conversations.layouts import Layout, Record, asked, is_list_of, make_turn, with_system
from rayllm.corpus.conversations.turns import Turn
from rayllm.corpus.documents import UnusableRow

#: How a turn begins in a transcript. Source: Bai et al. 2022, arXiv:2204.05862; the data set's own files.
_SPEAKER = re.compile(r"(?:\A|\n)\n?(Human|Assistant):[ \t]?")
_TRANSCRIPT = re.compile(r"\A\n{0,2}Human:")


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt.

    Attributes:
        prompt: The turns that both answer.
        chosen: The reply that was preferred.
        rejected: The other one.
    """

    prompt: list[Turn]
    chosen: str
    rejected: str


def pair_of(chosen: Sequence[Turn], rejected: Sequence[Turn]) -> Pair:
    """Two whole conversations that differ in their last reply.

    Raises:
        UnusableRow: If one does not end with a reply, or what stands before it is not the same.
    """
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns or turns[-1].role != "assistant":
            raise UnusableRow("no_last_reply", f"`{name}` does not end with what the assistant says")
    if list(chosen[:-1]) != list(rejected[:-1]):
        raise UnusableRow(
            "prompts_differ", "`chosen` and `rejected` differ before their last reply: they answer different prompts"
        )
    return Pair(list(chosen[:-1]), chosen[-1].content, rejected[-1].content)


def _has_lists(row: Record) -> bool:
    return all(is_list_of(row.get(name), "role", "content") for name in ("chosen", "rejected"))


def _messages(row: Record) -> Pair:
    prompt, sides = row.get("prompt"), []
    for name in ("chosen", "rejected"):
        turns = [make_turn(item["role"], item["content"], item.get("tool_calls")) for item in row[name]]
        sides.append([*_before(prompt, turns), *turns])
    return pair_of(*(with_system(turns, row) for turns in sides))


def _before(prompt: object, turns: Sequence[Turn]) -> list[Turn]:
    """The prompt, where the lists hold the replies alone; where they hold all, it stands there for reading only."""
    if any(turn.role == "user" for turn in turns):
        return []
    if isinstance(prompt, str):
        return [make_turn("user", prompt)]
    if is_list_of(prompt, "role", "content"):
        assert isinstance(prompt, list)
        return [make_turn(item["role"], item["content"], item.get("tool_calls")) for item in prompt]
    raise UnusableRow("no_prompt", "`chosen` and `rejected` have no turn of a user, and there is no `prompt`")


def _is_sharegpt(row: Record) -> bool:
    sides = (row.get("chosen"), row.get("rejected"))
    turns = all(isinstance(side, Mapping) and isinstance(side.get("from"), str) and "value" in side for side in sides)
    return turns and is_list_of(row.get("conversations"), "from", "value")


def _sharegpt(row: Record) -> Pair:
    prompt = [make_turn(item["from"], item["value"]) for item in row["conversations"]]
    sides = ([*prompt, make_turn(row[name]["from"], row[name]["value"])] for name in ("chosen", "rejected"))
    return pair_of(*(with_system(turns, row) for turns in sides))


def _has_texts(row: Record, *names: str) -> bool:
    return all(isinstance(row.get(name), str) for name in names)


def _is_transcripts(row: Record) -> bool:
    return _has_texts(row, "chosen", "rejected") and all(map(_TRANSCRIPT.match, (row["chosen"], row["rejected"])))


def _transcripts(row: Record) -> Pair:
    return pair_of(_turns_of(row["chosen"]), _turns_of(row["rejected"]))


def _turns_of(transcript: str) -> list[Turn]:
    """The turns of a text in which each begins with its speaker's name, on a line of its own."""
    _, *parts = _SPEAKER.split(transcript)
    return [make_turn(name.lower(), text.strip()) for name, text in zip(parts[::2], parts[1::2], strict=True)]


def _alpaca(row: Record) -> Pair:
    prompt = with_system([asked(row["instruction"], row.get("input"))], row)
    return Pair(prompt, row["chosen"], row["rejected"])


def _outputs(row: Record) -> Pair:
    prompt = with_system([asked(row["instruction"], row.get("input"))], row)
    if row["preference"] not in (1, 2):
        raise UnusableRow("wrong_type", f"`preference` is {row['preference']!r}, neither 1 nor 2")
    first = row["preference"] == 1
    better, worse = ("output_1", "output_2") if first else ("output_2", "output_1")
    return Pair(prompt, row[better], row[worse])


def _question(row: Record) -> list[str]:
    return [row[name] for name in ("prompt", "question") if isinstance(row.get(name), str)]


def _prompt(row: Record) -> Pair:
    return Pair(with_system([make_turn("user", _question(row)[0])], row), row["chosen"], row["rejected"])


PAIR_LAYOUTS: dict[str, Layout[Pair]] = {
    "messages": Layout(
        "lists `chosen` and `rejected` of `role` and `content`",
        ("prompt", "chosen", "rejected", "system", "tools"),
        _has_lists,
        _messages,
    ),
    "sharegpt": Layout(
        "a list `conversations` of `from` and `value`, and such turns `chosen` and `rejected`",
        ("conversations", "chosen", "rejected", "system", "tools"),
        _is_sharegpt,
        _sharegpt,
    ),
    "transcripts": Layout(
        "texts `chosen` and `rejected` of turns that begin with `Human:` and `Assistant:`",
        ("chosen", "rejected"),
        _is_transcripts,
        _transcripts,
    ),
    "alpaca": Layout(
        "texts `instruction`, `chosen` and `rejected`",
        ("instruction", "input", "chosen", "rejected", "system", "tools"),
        lambda row: _has_texts(row, "instruction", "chosen", "rejected"),
        _alpaca,
    ),
    "outputs": Layout(
        "texts `instruction`, `output_1` and `output_2`, and `preference`",
        ("instruction", "input", "output_1", "output_2", "preference", "system", "tools"),
        lambda row: _has_texts(row, "instruction", "output_1", "output_2") and "preference" in row,
        _outputs,
    ),
    "prompt": Layout(
        "texts `prompt` (or `question`), `chosen` and `rejected`",
        ("prompt", "question", "chosen", "rejected", "system", "tools"),
        lambda row: _has_texts(row, "chosen", "rejected") and len(_question(row)) == 1,
        _prompt,
    ),
}
#: Every field that some layout looks at.
PAIR_FIELDS = tuple(dict.fromkeys(name for layout in PAIR_LAYOUTS.values() for name in layout.fields))
