r"""One text made regular: line ends, control characters, Unicode form, blank space at line ends.

Nothing that carries meaning changes: words, indentation, tabs, tables and blank lines (up to two in a row) stay.
"""

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n?|[\u0085\u2028\u2029]")
#: C0 and C1 controls but tab and newline; delete; byte order marks; soft hyphens; zero-width spaces; directional marks
#: (which can make text read otherwise than it is: Boucher and Anderson 2021, Trojan Source, arXiv:2111.00169).
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_BLANKS = " \t\u00a0"
_BLANK_LINES = re.compile(r"\n{4,}")


def clean_text(text: str) -> str:
    r"""Clean a text; cleaning it again changes nothing.

    Line ends become ``\n``, control and invisible characters go, Unicode is put into NFC, blanks at line ends go, runs
    of blank lines become two, and there is none at the beginning or the end.

    Source: Unicode Standard Annex 15 (NFC).
    """
    text = _LINE_ENDS.sub("\n", text)
    text = _UNWANTED.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    text = "\n".join([line.rstrip(_BLANKS) for line in text.split("\n")])
    return _BLANK_LINES.sub("\n\n\n", text).strip("\n").rstrip()
