r"""English prose out of Python files and package descriptions.

In: the bytes of a ``.py`` file or of a package's METADATA. Out: paragraphs of running text: markup taken off, wrapped
lines joined, and everything left out that is not prose (code, doctests, tables of parameters, headings, licences).
Nothing is imported. Docstrings are found by their quotes: parsing the packages would take five times as long.
"""

import ast
import inspect
import re
import textwrap
import warnings
from collections.abc import Iterator

#: Shorter paragraphs are rarely sentences, in words.
MIN_WORDS = 9
_SENTENCE_ENDS = ".!?)"

_QUOTES = re.compile(rb'("""|\'\'\')')
#: What stands before a docstring: the colon of a definition, or nothing but comments at the beginning of the file.
_DEFINITION = re.compile(rb":[ \t]*(?:#[^\n]*)?\s*[rRuU]?$")
_FILE_HEAD = re.compile(rb"(?:\s*#[^\n]*\n)*\s*[rRuU]?$")
_BLANK = re.compile(r"\n[ \t]*\n")
_MARKUP = [
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),  # images
    (re.compile(r"\[([^\]]+)\]\([^)]*\)"), r"\1"),  # Markdown links
    (re.compile(r"`([^`<]+?)\s*<[^>`]+>`_{0,2}"), r"\1"),  # reStructuredText links
    (re.compile(r":[a-zA-Z:+-]+:`~?([^`]+)`"), r"\1"),  # roles
    (re.compile(r"\[(?:`{0,2})~?([\w.]+)(?:`{0,2})\](?!\()"), r"\1"),  # cross references
    (re.compile(r"`+([^`]+)`+_{0,2}"), r"\1"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"\1"),
    (re.compile(r"(?<!\w)\*([^*\s][^*]*)\*(?!\w)"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^>]*>"), ""),
]
_LIST_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,2}[.)]|#\.)\s+")
#: Beginnings of lines that are not prose: doctests, directives, fields, comments, tables, headings, rules.
_NOT_PROSE = re.compile(
    r"^\s*(?:>>>|\.\.\s|\.\.\.|@\w+|#|\||\+-|[=~^\"*_-]{3,}|```|~~~|\$\s|%\s|<|\{|\[|!|In \[|Traceback|Copyright"
    r"|(?:Args|Arguments|Returns?|Raises|Parameters|Examples?|Notes?|Yields|Attributes)\s*:?\s*$)"
)
#: ``name: what``, ``name : type``, ``name (type): what``, ``:param name: what``: the beginning of a parameter.
_PARAMETER = re.compile(r"^\s*(?::\w+ [\w.]+:|:\w+:|\*{0,2}[`'\w.,*/-]{1,40}(?:\s*\([^)]*\))?\s*(?::|--))(?:\s+|$)")
_WORD = re.compile(r"[A-Za-z][a-z]*(?:['\u2019-][a-z]+)*[,.;:!?)]*$")
_LICENCE = re.compile(
    r"licen[cs]ed under|all rights reserved|without warranty|permission is hereby|redistribution and use", re.IGNORECASE
)


def prose_of_python(data: bytes) -> Iterator[str]:
    """Yield the prose paragraphs of a Python file's docstrings."""
    for docstring in find_docstrings(data):
        yield from prose_paragraphs(docstring)


def prose_of_metadata(data: bytes) -> Iterator[str]:
    """Yield the prose paragraphs of a package's long description (Markdown or reStructuredText)."""
    header, _, body = data.decode("utf-8", errors="replace").partition("\n\n")
    if body and header.startswith("Metadata-Version"):
        yield from prose_paragraphs(body)


def prose_paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring or README that are running English, one line each."""
    fenced = False
    for block in _BLANK.split(inspect.cleandoc(text)):
        fences = block.count("```")
        if fences or fenced:
            fenced ^= fences % 2 == 1
            continue
        if "." in block:
            for paragraph in _paragraphs(block):
                # Most are too short or end in no sentence: seen before the costly steps.
                if len(paragraph) > 4 * MIN_WORDS and paragraph[-1] in _SENTENCE_ENDS:
                    plain = _strip_markup(paragraph)
                    if is_prose(plain):
                        yield plain


def is_prose(paragraph: str) -> bool:
    """Whether a one-line paragraph reads like English sentences rather than code, a table or a licence."""
    words = paragraph.split()
    if len(words) < MIN_WORDS or not paragraph[0].isupper() or paragraph[-1] not in _SENTENCE_ENDS:
        return False
    if _LICENCE.search(paragraph) or "\ufffd" in paragraph:
        return False
    plain = sum(1 for word in words if _WORD.match(word))
    return plain >= 0.8 * len(words) and not _PARAMETER.match(paragraph)


def find_docstrings(data: bytes) -> Iterator[str]:
    """Yield the triple-quoted docstrings of a Python file, in order; one that cannot be decoded is left out."""
    pieces = _QUOTES.split(data)  # code, quotes, text or code, quotes, ...
    index = 0
    while index + 2 < len(pieces):
        before, quotes = pieces[index][-300:], pieces[index + 1]
        end = next((at for at in range(index + 3, len(pieces), 2) if pieces[at] == quotes), None)
        if end is None:
            return
        if _DEFINITION.search(before) or (index == 0 and _FILE_HEAD.match(pieces[0])):
            yield from _literal(before[-1:] in b"rR", b"".join(pieces[index + 2 : end]), quotes)
        index = end + 1


def _literal(raw: bool, inside: bytes, quotes: bytes) -> Iterator[str]:
    try:
        text = inside.decode()
        if "\\" in text and not raw:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's strings
                text = ast.literal_eval(f"{quotes.decode()}{text}{quotes.decode()}")
        yield text
    except (SyntaxError, ValueError):
        return


def _paragraphs(block: str) -> Iterator[str]:
    """Cut a block at list items and parameters, and leave out its lines that are not prose."""
    current: list[str] = []
    for line in textwrap.dedent(block).splitlines():
        start = _LIST_ITEM.match(line) or _PARAMETER.match(line)
        skipped = _NOT_PROSE.match(line)
        if (start or skipped) and current:
            yield " ".join(current)
            current = []
        if not skipped:
            rest = line[start.end() :] if start else line
            # After `name :` there may be a type; a description begins with a capital letter.
            current += [] if start and not rest[:1].isupper() else [rest.strip()]
    if current:
        yield " ".join(current)


def _strip_markup(text: str) -> str:
    if any(mark in text for mark in "`*[<"):
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
    return " ".join(text.split()).removesuffix("::").strip()
