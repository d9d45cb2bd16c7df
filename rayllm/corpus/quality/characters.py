"""What each character is, as one table of flags that whole batches of text are looked up in."""

import unicodedata
from functools import cache

import numpy as np
from jaxtyping import Shaped, UInt16, UInt32

SPACE = 1
LETTER = 2
DIGIT = 4
#: Neither space nor one of the characters that a word may not consist of alone.
PLAIN = 8
#: Ends a sentence, in whatever script.
TERMINAL = 16
LOWER = 32
UPPER = 64
#: A word of its own where it begins or ends what stands between spaces.
EDGE = 128
#: Emoji, other symbols and the ellipsis: a word of its own wherever it stands.
ICON = 256
#: Not of one of Unicode's categories of punctuation, nor a space.
SOLID = 1024
#: May part words where it stands between them.
INFIX = 512

#: Code points from here on are taken for unassigned ones: neither letters nor digits nor spaces.
LIMIT = 0x34000

# The characters of `datatrove.utils.text.PUNCTUATION`, which Gopher's word lengths leave out.
_PUNCTUATION = frozenset(
    "!/\u2014\u201d:\uff05\uff11\u3008&(\u3001\u2501\\\u3010#%\u300c\u300d\uff0c\u3011\uff1b+^]~\u201c\u300a\u201e';\u2019"
    '{|\u2236\u00b4[=-`*\uff0e\uff08\u2013\uff1f\uff01\uff1a$\uff5e\u00ab\u3009,><\u300b)?\uff09\u3002\u2026@_."}\u25ba\u00bb'
) | frozenset(map(chr, (*range(9), 11, 12, *range(13, 32), *range(127, 160))))

# Unicode's Sentence_Terminal characters, as in `datatrove.utils.text.TERMINAL_PUNCTUATION`.
_TERMINAL = frozenset(
    "!.?\u0589\u061d\u061e\u061f\u06d4\u0700\u0701\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u104a\u104b\u1362"
    "\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u17d6\u17d9\u17da\u1803\u1809\u1944\u1945\u1aa8\u1aa9\u1aaa\u1aab\u1b5a"
    "\u1b5b\u1b5e\u1b5f\u1b7d\u1b7e\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d\u2047\u2048\u2049\u2e2e\u2e3c\u2e53\u2e54\u3002"
    "\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d\uaa5e\uaa5f\uaaf0\uaaf1\uabeb"
    "\ufe52\ufe56\ufe57\uff01\uff0e\uff1f\uff61"
    "\U00010a56\U00010a57\U00010f55\U00010f56\U00010f57\U00010f58\U00010f59\U00010f86\U00010f87\U00010f88\U00010f89"
    "\U00011047\U00011048\U000110be\U000110bf\U000110c0\U000110c1\U00011141\U00011142\U00011143\U000111c5\U000111c6"
    "\U000111cd\U000111de\U000111df\U00011238\U00011239\U0001123b\U0001123c\U000112a9\U0001144b\U0001144c\U000115c2"
    "\U000115c3\U000115c9\U000115ca\U000115cb\U000115cc\U000115cd\U000115ce\U000115cf\U000115d0\U000115d1\U000115d2"
    "\U000115d3\U000115d4\U000115d5\U000115d6\U000115d7\U00011641\U00011642\U0001173c\U0001173d\U0001173e\U00011944"
    "\U00011946\U00011a42\U00011a43\U00011a9b\U00011a9c\U00011c41\U00011c42\U00011ef7\U00011ef8\U00011f43\U00011f44"
    "\U00016a6e\U00016a6f\U00016af5\U00016b37\U00016b38\U00016b44\U00016e98\U0001bc9f\U0001da88"
)

# spaCy's punctuation, quotes and currency signs, and the signs that only begin a word.
_EDGE = frozenset(
    "\u2026,:;!?\u00bf\u061f\u00a1()[]{}<>_#*&\u3002\uff1f\uff01\uff0c\u3001\uff1b\uff1a\uff5e\u00b7\u0964\u060c\u06d4"
    "\u061b\u066a'\"\u201d\u201c`\u2018\u00b4\u2019\u201a\u201e\u00bb\u00ab\u300c\u300d\u300e\u300f\uff08\uff09\u3014"
    "\u3015\u3010\u3011\u300a\u300b\u3008\u3009\u27e6\u27e7$\u00a3\u20ac\u00a5\u0e3f\ufdfc\u00a7%=\u2014\u2013"
) | frozenset(map(chr, range(0x20A0, 0x20C0)))
_INFIX = frozenset("-\u2013\u2014~,:<>=/.'\u2019+*^\u2026")


@cache
def flag_table() -> UInt16[np.ndarray, " limit"]:
    """The flags of every code point below ``LIMIT``; made once a process, in a tenth of a second."""
    return np.fromiter(map(_flags, map(chr, range(LIMIT))), np.uint16, LIMIT)


def _flags(char: str) -> int:
    flags = LETTER * char.isalpha() | DIGIT * char.isdecimal() | LOWER * char.islower() | UPPER * char.isupper()
    flags |= TERMINAL * (char in _TERMINAL) | EDGE * (char in _EDGE) | INFIX * (char in _INFIX)
    category = unicodedata.category(char)
    flags |= ICON * (char == "\u2026" or (category == "So" and char != "\u00b0"))
    if char.isspace():
        return flags | SPACE
    return flags | SOLID * (category[0] != "P") | PLAIN * (char not in _PUNCTUATION and char not in _TERMINAL)


def flags_of(chars: UInt32[np.ndarray, " chars"]) -> UInt16[np.ndarray, " chars"]:
    """Look up the flags of characters, given as code points."""
    return flag_table().take(chars, mode="clip")


def code_points(text: str) -> UInt32[np.ndarray, " chars"]:
    """A text as an array of code points, without a copy where the encoder allows it."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def is_any(flags: Shaped[np.ndarray, " any"], wanted: int) -> Shaped[np.ndarray, " any"]:
    """Where any of the wanted flags is set."""
    return (flags & flags.dtype.type(wanted)) != 0
