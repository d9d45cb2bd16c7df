r"""One text made regular: encoding, line ends, control characters, Unicode form, blank space at line ends, boilerplate.

Nothing that carries meaning changes: words, indentation, tabs, tables and blank lines (up to two in a row) stay. Lines
are left out only where the settings say so. Each step looks first, by the cheapest test there is, whether it has
anything to do: most texts need nothing at all.
"""

import re
import unicodedata
from functools import cache

from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.corpus.documents import Content

_LINE_ENDS = re.compile("[\r\u0085\u2028\u2029]")
#: C0 and C1 controls but tab and newline; delete; byte order marks; soft hyphens; zero-width spaces; directional marks
#: (which can make text read otherwise than it is: Boucher and Anderson 2021, Trojan Source, arXiv:2111.00169).
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_BLANKS = " \t\u00a0"
_BLANK_LINES = re.compile(r"\n{4,}")
_TERMINAL = (".", "?", "!", '"', "'")
_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
#: Repairs may uncover more to repair; so many rounds are enough for anything but texts made to defeat this.
_MAX_ROUNDS = 8


class Boilerplate(ConfigModel):
    """C4's rules for lines: which lines of a web page are left out.

    Source: Raffel et al. 2020, arXiv:1910.10683, section 2.2, and the code published with it (``c4_utils.py``), where
    the phrases, the limit of word length and the citations come from.
    """

    terminal_punctuation: bool = Field(
        default=True, description="Whether lines that do not end with `.`, `?`, `!` or a quotation mark are left out."
    )
    min_line_words: int = Field(default=3, ge=0, description="Lines of fewer words are left out.")
    max_word_chars: int = Field(default=1000, ge=1, description="Lines with a longer word are left out, in characters.")
    phrases: list[str] = Field(
        default=[
            "javascript",
            "terms of use",
            "privacy policy",
            "cookie policy",
            "uses cookies",
            "use of cookies",
            "use cookies",
        ],
        description="Lines with any of these are left out, in whatever case.",
    )
    citations: bool = Field(default=True, description="Whether marks such as `[3]` and `[edit]` are removed.")


class CleanSettings(ConfigModel):
    """What cleaning does to a text beyond what every text needs."""

    fix_encoding: bool = Field(
        default=True,
        description="Whether text decoded by the wrong code page (`\u00e2\u20ac\u2122`) is repaired, by ftfy.",
    )
    boilerplate: Boilerplate | None = Field(
        default=None, description="C4's rules for lines; `{}` is as published, null keeps all lines."
    )


class CleanByContent(ConfigModel):
    """How each kind of content is cleaned; a source's `content` chooses among them."""

    prose: CleanSettings = Field(default=CleanSettings(), description="How running text is cleaned.")
    code: CleanSettings = Field(default=CleanSettings(fix_encoding=False), description="How source code is cleaned.")
    math: CleanSettings = Field(default=CleanSettings(fix_encoding=False), description="How mathematics is cleaned.")
    chat: CleanSettings = Field(default=CleanSettings(), description="How the turns of conversations are cleaned.")

    def of(self, content: Content) -> CleanSettings:
        """The settings for a kind of content."""
        return {"prose": self.prose, "code": self.code, "math": self.math, "chat": self.chat}[content]


_DEFAULT = CleanSettings()


def clean_text(text: str, settings: CleanSettings = _DEFAULT) -> str:
    r"""Clean a text; cleaning it again changes nothing.

    Line ends become ``\n``, control and invisible characters go, Unicode is put into NFC, blanks at line ends go, runs
    of blank lines become two, and there is none at the beginning or the end.

    Args:
        text: The text.
        settings: What is done beyond that.

    Source: Unicode Standard Annex 15 (NFC).
    """
    for _ in range(_MAX_ROUNDS):
        repaired = fix_encoding(text) if settings.fix_encoding else text
        cleaned = _regular(repaired)
        if settings.boilerplate is not None:
            cleaned = _regular("\n".join(_kept_lines(cleaned, settings.boilerplate)))
        # What is left out can have hidden what may be repaired, so a text that changed is looked at again.
        if cleaned == text or not settings.fix_encoding or cleaned.isascii():
            return cleaned
        text = cleaned
    return text


def _regular(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    text = _LINE_ENDS.sub("\n", text)
    text = _UNWANTED.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = "\n".join([line.rstrip(_BLANKS) for line in text.split("\n")])
    if "\n\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", text)
    return text.strip("\n").rstrip()


def fix_encoding(text: str) -> str:
    """Undo decoding by the wrong code page, where there are signs of it.

    ftfy alone reads 2 to 10 MB/s of text that is not ASCII; the signs are looked for at some 200.

    Source: Speer, ftfy, version 6 (``ftfy.fix_encoding``).
    """
    if text.isascii():
        return text
    suspicious, certain = _signs()
    if not suspicious.search(text) or not certain.search(text):
        return text
    import ftfy

    return ftfy.fix_encoding(text)


@cache
def _signs() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What UTF-8 looks like when it was read by another code page: a leading byte, then one that continues.

    Two patterns, the first fast and true of more texts than the second. A no-break space that became a space is seen
    after Latin-1's leading bytes only.
    """
    from ftfy.chardata import CHARMAP_ENCODINGS

    leading, continuing, pairs = "", "", []
    for encoding in CHARMAP_ENCODINGS:
        first, second = (
            re.escape(bytes(codes).decode(encoding, "ignore")) for codes in (range(0xC2, 0xF5), range(0x80, 0xC0))
        )
        leading, continuing, pairs = leading + first, continuing + second, [*pairs, f"[{first}][{second}]"]
    latin = "\u00c2\u00c3\u00c5\u00ce\u00d0\u00d9\u00e2\u00e3"
    fast = f"[{leading}\x80-\x9f](?:(?<=[{leading}])[{continuing}]|(?<=[{latin}]) |(?<=[\x80-\x9f]))"
    return re.compile(fast), re.compile("|".join([*pairs, f"[{latin}] ", "[\x80-\x9f]"]))


def _kept_lines(text: str, rules: Boilerplate) -> list[str]:
    lowered = text.lower()
    phrases = [phrase for phrase in map(str.lower, rules.phrases) if phrase in lowered]
    lines = map(str.strip, text.split("\n"))
    if rules.citations and "[" in text:
        lines = map(_without_citations, lines)
    return [line for line in lines if not _is_boilerplate(line, phrases, rules)]


def _without_citations(line: str) -> str:
    while "[" in line and (shorter := _CITATION.sub("", line).strip()) != line:
        line = shorter
    return line


def _is_boilerplate(line: str, phrases: list[str], rules: Boilerplate) -> bool:
    if rules.terminal_punctuation and (not line.endswith(_TERMINAL) or line.endswith("...")):
        return True
    if len(line.split(None, rules.min_line_words)) < rules.min_line_words:
        return True
    if len(line) > rules.max_word_chars and max(map(len, line.split())) > rules.max_word_chars:
        return True
    return bool(phrases) and any(phrase in line.lower() for phrase in phrases)
