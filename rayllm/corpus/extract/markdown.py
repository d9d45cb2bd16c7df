"""Markdown in parts: front matter as data, the body without HTML comments, its sections.

Line by line, as CommonMark 0.31 reads blocks: what stands in a code fence is neither a comment nor a heading.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

#: Longer front matter is text.
MAX_FRONT_MATTER_BYTES = 64 << 10

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r"^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_CODE_OR_COMMENT = re.compile(r"(?<!`)(`++)[^`]++\1(?!`)|<!--")


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases: nine lines of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Take the YAML mapping between two ``---`` lines off the head of a text.

    What stands there and is no mapping is part of the text: a line of dashes is a rule in Markdown too.
    """
    head, opening, rest = text.partition("---\n")
    if head or not opening:
        return {}, text
    end = re.search(r"^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", rest[:MAX_FRONT_MATTER_BYTES], re.MULTILINE)
    if not end:
        return {}, text
    try:
        fields = yaml.load(rest[: end.start()], _PlainLoader)  # noqa: S506 - a subclass of the safe loader
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}, text
    if not isinstance(fields, dict):
        return {}, text
    return {str(name): value for name, value in fields.items()}, rest[end.end() :].lstrip("\n")


def drop_comments(text: str) -> str:
    """Take HTML comments out; a line that was nothing else goes with them."""
    kept: list[str] = []
    inside = False
    for line, in_code in _lines(text, comments=True):
        if in_code:
            kept.append(line)
            continue
        plain, inside_after = _without_comments(line, inside)
        touched = inside or plain != line
        inside = inside_after
        if plain.strip() or not touched:
            kept.append(plain.rstrip() if touched else line)
    return "\n".join(kept)


def split_sections(text: str, level: int) -> list[tuple[str, str]]:
    """Cut a text before its headings.

    Args:
        text: Markdown without front matter.
        level: Headings to cut at: 1 for ``#`` only, up to 6.

    Returns:
        Heading and text of each section, heading included, in order; the heading is empty before the first. Together
        the texts' lines are those of ``text``.
    """
    sections: list[tuple[str, list[str]]] = [("", [])]
    for line, in_code in _lines(text, comments=False):
        heading = None if in_code else _HEADING.match(line)
        if heading and len(heading[1]) <= level:
            sections.append((heading[2] or "", []))
        sections[-1][1].append(line)
    return [(title, "\n".join(lines)) for title, lines in sections if lines]


def _lines(text: str, *, comments: bool) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it is part of a fenced code block; fences in comments are no fences."""
    fence, inside = "", False
    for line in text.split("\n"):
        mark = _FENCE.match(line)
        if fence:
            yield line, True
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        elif mark and not inside:
            fence = mark[1]
            yield line, True
        else:
            inside = comments and _without_comments(line, inside)[1]
            yield line, False


def _without_comments(line: str, inside: bool) -> tuple[str, bool]:
    """A line without its comments, and whether one is still open at its end; comments in inline code are text."""
    kept: list[str] = []
    position = 0
    while True:
        if inside:
            end = line.find("-->", position)
            if end < 0:
                return "".join(kept), True
            position, inside = end + len("-->"), False
        match = _CODE_OR_COMMENT.search(line, position)
        if not match:
            return "".join([*kept, line[position:]]), False
        comment = match[1] is None
        kept.append(line[position : match.start() if comment else match.end()])
        position, inside = match.end(), comment
