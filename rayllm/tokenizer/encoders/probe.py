"""Texts that tell two encoders apart, if anything does.

Where encoders disagree is at the borders: what a letter, a digit or a space is in every script, runs of one character,
all kinds of white space and line ends, contractions in every case, texts that spell special tokens, and words made of
the vocabulary's own tokens, in which the order of merges decides. All are drawn from a fixed seed.
"""

import random
import unicodedata
from collections.abc import Iterator

from tokenizers import Tokenizer

from rayllm.tokenizer.special import ordinary

#: Case, accents (composed and not), signs, scripts, emoji, white space of all kinds, special tokens as text.
PROBE = (
    "  Leading spaces, CamelCase, naïve cafe\u0301, 1234567.89\n\n\tdef f(x):\r\n        return x != 'y'  # ½ €\n"
    "中文 Ελληνικά русский العربية हिन्दी 한국어 👩‍👩‍👧 \u00a0\u200b\ufeff <|endoftext|></s>[MASK]\x00\x1b trailing   "
)

#: All of Unicode's white space, and characters that look as if they were.
_SPACES = [
    *"\t\n\r\x0b\x0c\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a",
    *"\u2028\u2029\u202f\u205f\u3000\u200b\u180e\u2060\ufeff",
    *("\r\n", "\n\n", " ", " ", "  "),
]
_ENGLISH = [
    "don't",
    "I'LL",
    "we've",
    "they'Re",
    "it's",
    "'\u017f",
    "'s",
    "x='t'",
    "O'Neil's",
    "\u2019s",
    "can\u2019t",
    "THE",
    "The",
]
_SIGNS = [
    *"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "...",
    "!=",
    "->",
    "://",
    "```",
    "*/",
    "();\n",
    "½",
    "€",
    "\uff0b",
    "。",
]
_RUNS = [*" \n\ta0-=_*#.é中🙂\u0301\u200d", "ab", "\r\n", "''"]
_NUMBERS = ["0", "12", "1234567890", "3.14159", "1,000,000", "٣٤٥", "१२३४", "Ⅷ", "x²", "1e-9", "0xFF", "½"]
_LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 64, 127, 128, 129, 255, 256, 257, 500, 1024, 4099)


def probe_texts(tokenizer: Tokenizer, seed: int = 0) -> list[str]:
    """About 1,000 texts, 270 KB; the same for the same tokenizer and seed."""
    rng = random.Random(seed)
    kinds = (_fixed, _scripts, _fuzz, _runs, _mixtures, lambda rng: _from_vocabulary(tokenizer, rng))
    return [text for kind in kinds for text in kind(rng)]


def told_apart(here: Tokenizer, there: Tokenizer) -> str:
    """What tells two tokenizers apart: a token or a text with other ids; empty if nothing does.

    How their files are written does not count, nor special tokens that one of them has beyond the ids of the other. The
    recognition of special tokens in text is switched off in both.

    Args:
        here: Whose tokens the probe texts are made of.
        there: The other one.
    """
    tokens = [{index: token for token, index in tokenizer.get_vocab().items()} for tokenizer in (here, there)]
    added = here.get_added_tokens_decoder().keys() | there.get_added_tokens_decoder().keys()
    if lone := (tokens[0].keys() ^ tokens[1].keys()) - added:
        return f"only one of them has id {min(lone):,}"
    for index in sorted(tokens[0].keys() & tokens[1].keys()):
        if tokens[0][index] != tokens[1][index]:
            return f"id {index:,} is {tokens[1][index]!r} there, {tokens[0][index]!r} here"
    texts = probe_texts(ordinary(here))
    found = [tokenizer.encode_batch(texts, add_special_tokens=False) for tokenizer in (here, ordinary(there))]
    for text, mine, other in zip(texts, *found, strict=True):
        if mine.ids != other.ids:
            return f"texts are cut otherwise: {text[:24]!r} ... is {len(other.ids)} ids there, {len(mine.ids)} here"
    return ""


def _fixed(_: random.Random) -> Iterator[str]:
    yield from ("", " ", "\n", "a", PROBE, PROBE * 3)


def _scripts(rng: random.Random) -> Iterator[str]:
    """Words in every block of Unicode: neighbours in the table, with spaces and digits between."""
    for start in range(0, 0x32000, 0x100):
        chars = [chr(start + i) for i in range(0x100) if not 0xD800 <= start + i < 0xE000]
        known = [char for char in chars if unicodedata.category(char) != "Cn"]
        if known:
            yield "".join(rng.choice(known) + rng.choice(["", "", "", " ", "1", "\n", "'s"]) for _ in range(64))


def _fuzz(rng: random.Random) -> Iterator[str]:
    """Characters of all of Unicode, unassigned ones too."""
    for _ in range(60):
        points = (rng.randrange(0x110000) if rng.random() < 0.3 else rng.randrange(0x3000) for _ in range(60))
        yield "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def _runs(rng: random.Random) -> Iterator[str]:
    """One character, over and over, alone and between words."""
    for run in _RUNS:
        yield " ".join(f"a{run * length}b" for length in _LENGTHS[:16])
        yield run * rng.choice(_LENGTHS)
    yield " " * _LENGTHS[-1]


def _mixtures(rng: random.Random) -> Iterator[str]:
    """Words, signs, numbers and white space in any order."""
    pool = [*_SPACES, *_SPACES, *_ENGLISH, *_SIGNS, *_NUMBERS]
    for _ in range(120):
        yield "".join(rng.choice(pool) for _ in range(60))


def _from_vocabulary(tokenizer: Tokenizer, rng: random.Random) -> Iterator[str]:
    """Special tokens as text, and tokens of the vocabulary glued together, whole and cut."""
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    yield "".join(f"{name} {name}{name}\n" for name in added[:200])
    size = tokenizer.get_vocab_size(with_added_tokens=False)
    for _ in range(120):
        ids = [rng.randrange(size) for _ in range(40)]
        tokens = [tokenizer.decode([index], skip_special_tokens=False) for index in ids]
        yield "".join(token[: rng.randint(1, 12)] if rng.random() < 0.3 else token for token in tokens)
    for name in added[:20]:
        yield f"text{name[:-1]} {name[1:]} {name.upper()}"
