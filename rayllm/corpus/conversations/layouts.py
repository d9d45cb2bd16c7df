"""The layouts in which conversations are published: which rows have them, and the turns of such a row.

| layout | a row has | known from |
|---|---|---|
| ``messages`` | a list of ``role`` and ``content`` | OpenAI, UltraChat, Tulu |
| ``sharegpt`` | a list of ``from`` and ``value`` | ShareGPT, Vicuna, Glaive |
| ``alpaca`` | ``instruction``, ``output`` (or ``response``); ``input`` (or ``context``), ``history`` | Alpaca, Dolly |
| ``self_instruct`` | ``instruction`` and ``instances`` of ``input``, ``output`` | the seed tasks of Self-Instruct |
| ``prompt_completion`` | ``prompt`` and ``completion`` or ``response``: texts, or lists of messages | TRL, MosaicML |
| ``oasst`` | a ``prompt`` with a tree of ``replies`` | OpenAssistant |

Functions that may be called (``tools``) become a part of the system's turn, and calls become replies, in the words of
the Hermes format: ``<tools>``, ``<tool_call>``. Source: Teknium et al. 2024, arXiv:2408.11857, section 3.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rayllm.corpus.conversations.trees import best_path
from rayllm.corpus.conversations.turns import Role, Turn
from rayllm.corpus.documents import UnusableRow

Record = Mapping[str, Any]
Made = TypeVar("Made", covariant=True)

#: What the sides of a conversation are called.
ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bard", "bing", "bot", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "ipython"), "tool"),
}
_LISTS = ("messages", "conversations", "conversation")
_CALL = "function_call"


@dataclass(frozen=True)
class Layout(Generic[Made]):
    """One way to write conversations, or pairs of replies, into rows.

    Attributes:
        needs: What a row must have, for people.
        fields: All fields that are looked at.
        fits: Whether a row has the layout.
        read: What a row that has it holds: the turns of a conversation.
    """

    needs: str
    fields: tuple[str, ...]
    fits: Callable[[Record], bool]
    read: Callable[[Record], Made]


def fitting(row: Record, layouts: Mapping[str, Layout[Any]]) -> list[str]:
    """The layouts that a row has."""
    return [name for name, layout in layouts.items() if layout.fits(row)]


def _list_of(row: Record, role: str, text: str) -> Sequence[Record]:
    """The row's list of turns with these keys; empty if there is none, or more than one."""
    found = [row[name] for name in _LISTS if is_list_of(row.get(name), role, text)]
    return found[0] if len(found) == 1 else []


def is_list_of(value: object, role: str, text: str) -> bool:
    """Whether a value is a list of records that have these two keys."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(item, Mapping) and isinstance(item.get(role), str) and text in item for item in value)


def make_turn(role: str, content: object, calls: object = None) -> Turn:
    """A turn under the role's common name.

    Raises:
        UnusableRow: If the role is not known, or what is said is not text.
    """
    if role not in ROLES:
        raise UnusableRow("unknown_role", f"role {role!r}; known are {', '.join(ROLES)}")
    text = _text(content, role) if content is not None or not calls else ""
    if role == _CALL:
        text = _call(text)
    if isinstance(calls, list):
        text = "\n".join(filter(None, [text, *(_call(json.dumps(_function(call))) for call in calls)]))
    return Turn(ROLES[role], text)


def _text(content: object, role: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise UnusableRow("wrong_type", f"what the {role} says is {type(content).__name__}, not text")


def _function(call: object) -> object:
    """A call without the frame that OpenAI puts around it; arguments in a text become what they say."""
    function = call.get("function", call) if isinstance(call, Mapping) else call
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return function
    try:
        return {**function, "arguments": json.loads(function["arguments"])}
    except ValueError as error:
        raise UnusableRow("malformed_json", "the arguments of a call are not JSON") from error


def _call(text: str) -> str:
    return f"<tool_call>\n{text}\n</tool_call>"


def with_system(turns: list[Turn], row: Record) -> list[Turn]:
    """The turns behind what the row's own fields say to the model: ``system`` and ``tools``."""
    system, tools = row.get("system"), row.get("tools")
    parts = [system] if isinstance(system, str) and system.strip() else []
    if turns and turns[0].role == "system":
        parts, turns = [*parts, turns[0].content], turns[1:]
    if tools:
        listed = tools if isinstance(tools, str) else json.dumps(tools)
        parts.append(f"You may call these functions:\n<tools>\n{listed}\n</tools>" if listed.strip() != "[]" else "")
    text = "\n\n".join(filter(None, parts))
    return [Turn("system", text), *turns] if text else turns


def _messages(row: Record) -> list[Turn]:
    found = _list_of(row, "role", "content")
    turns = [make_turn(item["role"], item["content"], item.get("tool_calls")) for item in found]
    return with_system(turns, row)


def _sharegpt(row: Record) -> list[Turn]:
    return with_system([make_turn(item["from"], item["value"]) for item in _list_of(row, "from", "value")], row)


def _is_alpaca(row: Record) -> bool:
    answers = [name for name in ("output", "response") if isinstance(row.get(name), str)]
    return isinstance(row.get("instruction"), str) and len(answers) == 1 and "instances" not in row


def _alpaca(row: Record) -> list[Turn]:
    earlier = row.get("history") or []
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in earlier):
        raise UnusableRow("wrong_type", "`history` is not a list of pairs")
    turns = [turn for before, said in earlier for turn in (make_turn("user", before), make_turn("assistant", said))]
    answer = row["output"] if isinstance(row.get("output"), str) else row["response"]
    given = row.get("input") or row.get("context")
    return with_system([*turns, *_task(row["instruction"], given, answer)], row)


def _task(instruction: str, given: object, answer: object) -> list[Turn]:
    """An instruction, with what it is about behind it, and the answer."""
    return [asked(instruction, given), make_turn("assistant", answer)]


def asked(instruction: str, given: object) -> Turn:
    """An instruction, with what it is about behind it."""
    about = f"\n\n{given}" if isinstance(given, str) and given.strip() else ""
    return make_turn("user", instruction + about)


def _is_self_instruct(row: Record) -> bool:
    instances = row.get("instances")
    return isinstance(row.get("instruction"), str) and is_list_of(instances, "output", "input")


def _self_instruct(row: Record) -> list[Turn]:
    """The first instance is the conversation; the seed tasks have no other."""
    instance = row["instances"][0]
    return _task(row["instruction"], instance["input"], instance["output"])


def _completion(row: Record) -> object:
    """What follows the prompt; None if there is nothing, or more than one thing, that could be it."""
    found = [row[name] for name in ("completion", "response") if row.get(name) is not None]
    return found[0] if len(found) == 1 else None


def _is_prompt_completion(row: Record) -> bool:
    prompt, completion = row.get("prompt"), _completion(row)
    if isinstance(prompt, str) and isinstance(completion, str):
        return True
    return all(is_list_of(part, "role", "content") for part in (prompt, completion))


def _prompt_completion(row: Record) -> list[Turn]:
    prompt, completion = row["prompt"], _completion(row)
    if isinstance(prompt, str):
        return with_system([make_turn("user", prompt), make_turn("assistant", completion)], row)
    assert isinstance(completion, list)
    return with_system(
        [make_turn(item["role"], item["content"], item.get("tool_calls")) for item in prompt + completion], row
    )


def _is_oasst(row: Record) -> bool:
    prompt = row.get("prompt")
    return (
        isinstance(prompt, Mapping) and isinstance(prompt.get("replies"), list) and isinstance(prompt.get("text"), str)
    )


def _oasst(row: Record) -> list[Turn]:
    return [make_turn(str(message["role"]), message["text"]) for message in best_path(row["prompt"])]


LAYOUTS: dict[str, Layout[list[Turn]]] = {
    "messages": Layout(
        "a list `messages` of `role` and `content`",
        (*_LISTS, "system", "tools"),
        lambda row: bool(_list_of(row, "role", "content")),
        _messages,
    ),
    "sharegpt": Layout(
        "a list `conversations` of `from` and `value`",
        (*_LISTS, "system", "tools"),
        lambda row: bool(_list_of(row, "from", "value")),
        _sharegpt,
    ),
    "alpaca": Layout(
        "`instruction` and either `output` or `response`",
        ("instruction", "input", "context", "output", "response", "instances", "history", "system", "tools"),
        _is_alpaca,
        _alpaca,
    ),
    "self_instruct": Layout(
        "`instruction` and `instances` of `input` and `output`",
        ("instruction", "instances"),
        _is_self_instruct,
        _self_instruct,
    ),
    "prompt_completion": Layout(
        "`prompt` and either `completion` or `response`",
        ("prompt", "completion", "response", "system", "tools"),
        _is_prompt_completion,
        _prompt_completion,
    ),
    "oasst": Layout("a `prompt` with a tree of `replies`", ("prompt",), _is_oasst, _oasst),
}
#: Every field that some layout looks at.
FIELDS = tuple(dict.fromkeys(name for layout in LAYOUTS.values() for name in layout.fields))
