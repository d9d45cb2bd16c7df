"""Words of a batch of texts: letters and digits together, punctuation apart, nearly as spaCy does it for English.

In: the code points of many texts and their flags. Out: where words begin and end. There is no loop over words or
characters: what stands between spaces is found over all characters, and marks, one character in twenty, are looked at
by themselves. FineWeb's thresholds were chosen on such words: datatrove takes them from spaCy
(``spacy.lang.punctuation``).

A mark at the beginning or end of what stands between spaces is a word of its own. Between letters it parts words only
where spaCy's infixes do: hyphens and commas between letters, ``:<>=/`` before a letter, a full stop between a small and
a capital letter or quotation marks, an apostrophe before a short ending (``it|'s``, ``do|n't``), two full stops or
more, and symbols. A full stop stays with an initial (``J.``) and with spaCy's English abbreviations (``Mr.``).
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt16, UInt32

from rayllm.corpus.quality.characters import (
    DIGIT,
    EDGE,
    ICON,
    INFIX,
    LETTER,
    LOWER,
    SPACE,
    UPPER,
    is_any,
)

Positions = Int64[np.ndarray, " n"]
Mask = Bool[np.ndarray, " n"]

_DOT, _COMMA, _SLASH = ord("."), ord(","), ord("/")
_QUOTES = np.array([ord("'"), ord("\u2019")], np.uint32)
_ALL_QUOTES = np.array([ord(char) for char in "'\"`,\u201c\u201d\u2018\u2019\u00b4\u201a\u201e\u00bb\u00ab"], np.uint32)
_HYPHENS = np.array([ord(char) for char in "-\u2013\u2014~"], np.uint32)
_JOINTS = np.array([ord(char) for char in ":<>=/"], np.uint32)
_OPERATORS = np.array([ord(char) for char in "+-*^"], np.uint32)
#: Endings that an apostrophe begins, as one number each: first letter, second letter.
_ENDINGS = np.array([ord(ending[0]) << 32 | ord(ending[1]) for ending in ("s ", "m ", "d ", "ll", "re", "ve")])
_WORD = LETTER | DIGIT
#: Words whose full stop belongs to them, beside single letters: those of ``spacy.lang.en`` and of its base, 3.8.
_ABBREVIATIONS = """
Adm Ak Ala Apr Ariz Ark Aug Bros Calif Co Colo Conn Corp D.C Dec Del Dr E.G E.g Feb Fla Ga Gen Gov I.E I.e Ia Id Ill
Inc Ind Jan Jr Jul Jun Kan Kans Ky La Ltd Mar Mass Md Messrs Mich Minn Miss Mo Mont Mr Mrs Ms Mt N.C N.D N.H N.J N.M
N.Y Neb Nebr Nev Nov Oct Okla Ore Pa Ph.D Prof Rep Rev S.C Sen Sep Sept St Tenn Va Wash Wis a.m co e.g i.e p.m v.s vs
a b c d e f g h i j k l m n o p q r s t u v w x y z
"""
#: The same as numbers, a byte for each character; they have at most seven.
_ABBREVIATION_KEYS = np.array([int.from_bytes(word.encode(), "big") for word in _ABBREVIATIONS.split()], np.uint64)
_LONGEST_ABBREVIATION = 7


def word_bounds(
    chars: UInt32[np.ndarray, " chars"], flags: UInt16[np.ndarray, " chars"], space: Bool[np.ndarray, " chars"]
) -> tuple[Int64[np.ndarray, " words"], Int64[np.ndarray, " words"]]:
    """Find the words.

    Args:
        chars: Code points of all texts, with four spaces after the last and one before the first.
        flags: Their flags.
        space: Which of them are spaces.

    Returns:
        The first character of each word, and the one after its last.
    """
    edge = np.zeros(len(chars), bool)
    np.not_equal(space[1:], space[:-1], out=edge[1:])
    marks = np.flatnonzero(is_any(flags, EDGE | ICON | INFIX))
    edge[_cuts(chars, flags, marks)] = True
    bounds = np.flatnonzero(edge)
    begins = np.flatnonzero(~space[bounds])
    return bounds[begins], bounds[begins + 1]


def _cuts(chars: np.ndarray[Any, Any], flags: np.ndarray[Any, Any], marks: Positions) -> Positions:
    """Where marks part words: positions of characters before which a word ends."""
    if not len(marks):
        return marks
    char, flag = chars[marks], flags[marks]
    before, after = flags[marks - 1], flags[marks + 1]
    dots = (char == _DOT) & ((chars[marks - 1] == _DOT) | (chars[marks + 1] == _DOT))
    leading, trailing = _at_edges(marks, before, after)
    edge = is_any(flag, EDGE) & (leading | trailing)
    edge |= trailing & (char == _DOT) & _ends_sentence(flags, marks, before) & ~dots
    edge[edge] &= ~_is_abbreviated(chars, flags, marks[edge], marks[edge & leading])
    quoted = np.isin(chars[marks - 1], _ALL_QUOTES), np.isin(chars[marks + 1], _ALL_QUOTES)
    inner = ~leading & ~trailing & ~_in_address(chars, marks, char)
    apart = edge | is_any(flag, ICON) | (inner & ~dots & _is_infix(char, before, after, quoted))
    # Two dots or more are one word.
    first, last = dots & (chars[marks - 1] != _DOT), dots & (chars[marks + 1] != _DOT)
    cuts = [marks[apart | first], marks[apart | last] + 1, _contractions(chars, flags, marks[np.isin(char, _QUOTES)])]
    return np.concatenate(cuts)


def _at_edges(marks: Positions, before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> tuple[Mask, Mask]:
    """Which marks belong to a run of marks that begins, or ends, what stands between spaces."""
    new = np.ones(len(marks), bool)
    np.not_equal(marks[1:], marks[:-1] + 1, out=new[1:])
    run = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(marks)) - 1
    return is_any(before, SPACE)[first][run], is_any(after, SPACE)[last][run]


def _ends_sentence(flags: np.ndarray[Any, Any], marks: Positions, before: np.ndarray[Any, Any]) -> Mask:
    """Whether a full stop at the end is a word: after all but a single capital letter."""
    initial = is_any(before, UPPER) & ~is_any(flags[marks - 2], UPPER)
    return ~initial


def _is_abbreviated(
    chars: np.ndarray[Any, Any], flags: np.ndarray[Any, Any], marks: Positions, opening: Positions
) -> Mask:
    """Whether marks are the full stops of abbreviations, which stand after a space or one of the marks that open."""
    going = chars[marks] == _DOT
    keys, lengths = np.zeros(len(marks), np.uint64), np.zeros(len(marks), np.int64)
    for back in range(_LONGEST_ABBREVIATION):
        char = chars[marks - 1 - back]
        going = going & (char < 128) & ((char == _DOT) | is_any(flags[marks - 1 - back], LETTER))
        keys += np.where(going, char.astype(np.uint64) << np.uint64(8 * back), np.uint64(0))
        lengths += going
    known = np.isin(keys, _ABBREVIATION_KEYS)
    before = marks[known] - 1 - lengths[known]
    known[known] = is_any(flags[before], SPACE) | np.isin(before, opening)
    return known


def _in_address(chars: np.ndarray[Any, Any], marks: Positions, char: np.ndarray[Any, Any]) -> Mask:
    """Marks of addresses such as ``http://a.org/b-c``, which stay whole: those after ``://`` with no space between."""
    schemes = marks[(char == _SLASH) & (chars[marks - 1] == _SLASH)]
    if not len(schemes):
        return np.zeros(len(marks), bool)
    # An address ends with the first space after it: found by looking for spaces, which are sorted too.
    spaces = np.flatnonzero(chars <= 32)
    ends = spaces[np.minimum(np.searchsorted(spaces, schemes), len(spaces) - 1)]
    which = np.searchsorted(schemes, marks, side="right") - 1
    return (which >= 0) & (marks < ends[which])


def _is_infix(
    char: np.ndarray[Any, Any],
    before: np.ndarray[Any, Any],
    after: np.ndarray[Any, Any],
    quoted: tuple[Mask, Mask],
) -> Mask:
    """Whether a mark between two words parts them; ``quoted``: where there are quotation marks before, and after."""
    letter_after = is_any(after, LETTER)
    infix = np.isin(char, _HYPHENS) & is_any(before, _WORD) & letter_after
    infix |= (char == _COMMA) & is_any(before, LETTER) & letter_after
    infix |= np.isin(char, _JOINTS) & is_any(before, _WORD) & letter_after
    infix |= (char == _DOT) & (is_any(before, LOWER) | quoted[0]) & (is_any(after, UPPER) | quoted[1])
    return infix | (np.isin(char, _OPERATORS) & is_any(before, DIGIT) & is_any(after, DIGIT))


def _contractions(chars: np.ndarray[Any, Any], flags: np.ndarray[Any, Any], quotes: Positions) -> Positions:
    """Where a contraction's second word begins: at the apostrophe, or at the ``n`` of ``n't``."""
    quotes = quotes[is_any(flags[quotes - 1], _WORD)]
    one, two = chars[quotes + 1] | 32, chars[quotes + 2] | 32  # in lower case
    two = np.where(is_any(flags[quotes + 2], LETTER), two, 32)
    three = np.where(two == 32, 0, flags[quotes + 3])
    ending = np.isin(one.astype(np.int64) << 32 | two, _ENDINGS) & ~is_any(three, LETTER)
    negated = (one == ord("t")) & (two == 32) & (chars[quotes - 1] | 32 == ord("n")) & is_any(flags[quotes - 2], LETTER)
    return np.concatenate([quotes[ending], quotes[negated] - 1])
