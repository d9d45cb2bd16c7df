"""Chat templates: Jinja, as Hugging Face's tokenizers have them; ours are such files too.

In: turns. Out: their text, and where in it replies stand: what ``{% generation %}`` encloses, or, in a template without
it, what a reply adds to the text that stands before it.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from itertools import pairwise
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict

from rayllm.core import storage
from rayllm.core.errors import ConfigError, DataError
from rayllm.tokenizer.chat.config import ChatConfig, JinjaFile

#: A turn: its ``role`` and ``content``.
Message = Mapping[str, str]
#: Name of the file in packed artifacts, checkpoints and exported models.
CHAT_TEMPLATE = "chat_template.jinja"
#: Tokens that a template of ours writes by name.
NEEDS: dict[str, tuple[str, ...]] = {"chatml": ("<|im_start|>", "<|im_end|>")}
#: Where a reply begins and ends in rendered text: noncharacters, which Unicode keeps for such use; texts have none.
_BEGIN, _END = "\ufdd0", "\ufdd1"
RESERVED = frozenset(map(chr, range(0xFDD0, 0xFDF0)))
_MARKER = re.compile(r"<\|[\w.:-]+\|>")
_GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class Span(NamedTuple):
    """Characters ``start`` to ``end`` of a text."""

    start: int
    end: int


class ChatTemplate(BaseModel):
    """A template.

    Attributes:
        name: What to call it in errors.
        source: The Jinja text.
        needs: Names of the special tokens that it writes.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    needs: tuple[str, ...] = ()

    @property
    def marks_replies(self) -> bool:
        """Whether it says itself where replies stand."""
        return _GENERATION.search(self.source) is not None

    def render(self, messages: Sequence[Message], separator: str, *, prompt: bool = False) -> tuple[str, list[Span]]:
        """The text of a conversation and where replies stand in it, as far as the template says.

        Args:
            messages: The turns, without ``RESERVED`` characters.
            separator: Name of the token between documents: the template's ``bos_token`` and ``eos_token``.
            prompt: Whether the beginning of a reply follows, as for generation.

        Raises:
            jinja2.TemplateError: If the template refuses the conversation.
        """
        marked = _compiled(self.source).render(
            messages=list(messages), bos_token=separator, eos_token=separator, add_generation_prompt=prompt, tools=None
        )
        return _unmarked(marked)

    def replies(self, messages: Sequence[Message], separator: str) -> tuple[str, list[Span]]:
        """The text of a conversation and its replies, each with its end of turn.

        Raises:
            jinja2.TemplateError: If the template refuses the conversation.
            DataError: If the replies cannot be told from the rest.
        """
        text, spans = self.render(messages, separator)
        if self.marks_replies:
            return text, spans
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        return text, [self._added(messages, place, text, separator) for place in places]

    def _added(self, messages: Sequence[Message], place: int, text: str, separator: str) -> Span:
        """What the reply at ``place`` adds to the text."""
        before, _ = self.render(messages[:place], separator, prompt=True)
        until, _ = self.render(messages[: place + 1], separator)
        if not (until.startswith(before) and text.startswith(until)):
            raise DataError(
                "the replies in a conversation cannot be told from the rest",
                where=f"chat template {self.name}",
                why="the text before a reply is another one than that of the prompt for it, or later turns change it",
                fix="put {% generation %} and {% endgeneration %} around the reply and its end of turn in the template",
            )
        return Span(len(before), len(until))


def load_template(config: ChatConfig) -> ChatTemplate:
    """The template that a config names.

    Raises:
        ConfigError: If there is no such file, or it holds no template.
    """
    if isinstance(config.template, JinjaFile):
        return _from_file(config.template.jinja, config.text_markers)
    name = config.template
    source = (resources.files(__package__ or "") / "templates" / f"{name}.jinja").read_text()
    return ChatTemplate(name=name, source=source, needs=NEEDS.get(name, ()))


def read_template(directory: str) -> ChatTemplate | None:
    """The template beside a tokenizer, if there is one."""
    where = storage.join(directory, CHAT_TEMPLATE)
    return ChatTemplate(name=where, source=storage.read_text(where)) if storage.exists(where) else None


def write_template(template: ChatTemplate, directory: str) -> None:
    """Put a template beside a tokenizer."""
    storage.write_text(storage.join(directory, CHAT_TEMPLATE), template.source)


def _from_file(uri: str, text_markers: Sequence[str]) -> ChatTemplate:
    try:
        source = storage.read_text(uri)
        if uri.endswith(".json"):
            source = json.loads(source)["chat_template"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            "there is no chat template here",
            where=f"pack.chat.template: {uri}",
            why=f"no {error} in it" if isinstance(error, KeyError) else str(error),
            fix="name a file with the Jinja text, or a tokenizer_config.json that has a `chat_template`",
        ) from error
    if not isinstance(source, str):
        raise ConfigError(
            "several chat templates in one file", where=uri, fix="write the one that is meant into a file of its own"
        )
    needs = tuple(dict.fromkeys(_MARKER.findall(source)))
    return ChatTemplate(name=uri, source=source, needs=tuple(name for name in needs if name not in text_markers))


def _unmarked(marked: str) -> tuple[str, list[Span]]:
    """Take the marks of replies out of a text."""
    pieces = re.split(f"([{_BEGIN}{_END}])", marked)
    lengths = [0 if piece in (_BEGIN, _END) else len(piece) for piece in pieces]
    position, edges = 0, []
    for piece, length in zip(pieces, lengths, strict=True):
        edges += [position] if piece in (_BEGIN, _END) else []
        position += length
    spans = [Span(*edge) for edge in list(pairwise(edges))[::2]]
    return "".join(piece for piece in pieces if piece not in (_BEGIN, _END)), spans


class _Generation(Extension):
    """``{% generation %}``: marks what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - the name and type that Jinja asks for

    def parse(self, parser: Parser) -> nodes.Node:
        """Read the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{_BEGIN}{caller()}{_END}"


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> jinja2.Template:
    """Compile a template in a sandbox, with what Hugging Face's templates expect.

    There is no ``strftime_now``: what is packed must not depend on the day.

    Raises:
        ConfigError: If it is no Jinja.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError("the chat template is not Jinja", where=f"line {error.lineno}", why=str(error)) from error


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)
