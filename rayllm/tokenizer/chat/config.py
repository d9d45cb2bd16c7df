"""How conversations become tokens; ``pack.chat`` of the run file."""

from typing import Literal

from pydantic import Field

from rayllm.core.config import ConfigModel, Count

BuiltinTemplate = Literal["chatml", "instruct", "chat", "alpaca", "user_assistant"]
Truncate = Literal["drop", "left", "right"]


class JinjaFile(ConfigModel):
    """A template of Hugging Face's form."""

    jinja: str = Field(
        default=...,
        description="URI of a Jinja chat template, or of a tokenizer_config.json that has a `chat_template`.",
    )


class ChatConfig(ConfigModel):
    """How conversations are written down, and which of them are too long."""

    template: BuiltinTemplate | JinjaFile = Field(
        default="chatml",
        description="`chatml` (turns between tokens of their own), `instruct`, `chat`, `alpaca`, `user_assistant` "
        "(plain text), or `{jinja: FILE}`.",
    )
    text_markers: list[str] = Field(
        default=[],
        description="Markers such as `<|user|>` in a Jinja template that are meant as text, not as tokens.",
    )
    max_tokens: Count = Field(
        default=2048,
        ge=8,
        description="Tokens of a conversation at most, the separator before it included; of a pair of replies, those "
        "of both together.",
    )
    truncate: Truncate = Field(
        default="drop",
        description="Longer ones: `drop`: left out; `left`: without their oldest exchanges; `right`: without their "
        "last tokens.",
    )
