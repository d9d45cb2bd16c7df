"""Texts to words, and words to hashes of n-grams: what near-duplicates and decontamination compare texts by.

A word is a run of letters, marks and digits, without case and accents: punctuation, white space, indentation and
underscores only separate. Of scripts that are written without spaces, each character is a word. Digits stay as they
are: problems which differ in their numbers are different problems.

All work on words is done by numpy over many texts at once, some nanoseconds a character. Hashes are made by arithmetic
that is written down here, so they are the same in every process, on every machine and with every library version.
"""

import hashlib
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Int64, UInt8, UInt32, UInt64

_SEPARATOR = ord(" ")
#: Stands between two words where the text has nothing; lower than every byte of a word, as the separator is.
_CUT = 1
#: Blocks, in characters: their words' hashes stay in a core's cache.
BLOCK_CHARS = 1 << 18
#: Longer words are hashed one by one, in bytes.
_LONG_WORD = 64
_CHUNK_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
#: An odd number whose powers weigh the words of an n-gram: that of Knuth's linear congruential generator MMIX.
_WEIGHT = 6364136223846793005
#: Scripts that are written without spaces: Thai to Tibetan, Myanmar, Khmer, the ideographs and kana.
_UNSPACED = ((0x0E00, 0x1000), (0x1000, 0x10A0), (0x1780, 0x1800), (0x2E80, 0x3130), (0x31A0, 0xA000), (0xF900, 0xFB00))
_UNSPACED += ((0xFF66, 0xFFA0), (0x20000, 0x40000))
#: Marks in the table the characters that are words by themselves.
_ALONE = np.uint32(1 << 31)


@dataclass(frozen=True)
class Words:
    """The words of several texts, one text after another.

    Attributes:
        data: The folded texts in UTF-8, a newline after each.
        offsets: Where each text begins in ``data``, and the end.
        starts: First byte of each word in ``data``.
        stops: One after its last byte.
        hashes: Hash of each word.
        bounds: The words of text ``i`` are those from ``bounds[i]`` to before ``bounds[i + 1]``.
    """

    data: bytes
    offsets: Int64[np.ndarray, " texts_and_end"]
    starts: Int64[np.ndarray, " words"]
    stops: Int64[np.ndarray, " words"]
    hashes: UInt64[np.ndarray, " words"]
    bounds: Int64[np.ndarray, " texts_and_end"]

    def strings(self, first: int, stop: int) -> list[bytes]:
        """The folded words in ``[first, stop)``, in UTF-8."""
        starts, stops = self.starts[first:stop].tolist(), self.stops[first:stop].tolist()
        return [self.data[a:b] for a, b in zip(starts, stops, strict=True)]

    def span(self, text: int, first: int, stop: int) -> tuple[int, int]:
        """Where the words ``[first, stop)`` stand in the text of that number, in characters of the original."""
        return self._char(text, self.starts[first]), self._char(text, self.stops[stop - 1])

    def _char(self, text: int, byte: int) -> int:
        before = self.data[self.offsets[text] : byte]
        return len(before.decode()) - before.count(_CUT)


def split_words(texts: Sequence[str]) -> Words:
    """Find and hash the words of texts.

    Args:
        texts: Any texts; lone surrogates separate words.
    """
    folded = [_fold(text) for text in texts]
    data = b"\n".join([*folded, b""])
    offsets = np.cumsum([0, *(len(text) + 1 for text in folded)])
    buffer = np.frombuffer(b"\n" + data + bytes(8), np.uint8)
    in_word = buffer > _SEPARATOR
    edges = np.flatnonzero(in_word[1:] != in_word[:-1])
    starts, stops = edges[0::2], edges[1::2]
    hashes = _hash_words(buffer[1:], starts, stops - starts)
    return Words(data, offsets, starts, stops, hashes, np.searchsorted(starts, offsets))


def ngram_hashes(words: UInt64[np.ndarray, " words"], n: int) -> UInt64[np.ndarray, " ngrams"]:
    """Hash every run of ``n`` words; the hash at ``i`` is that of the words from ``i``; none if there are fewer words.

    It is a polynomial in the words' hashes, modulo 2**64: built from runs of 1, 2, 4, ... words, so that the work grows
    with the logarithm of ``n``.
    """
    if len(words) < n:
        return np.empty(0, np.uint64)
    run, length = words, 1
    total, covered = np.zeros(len(words), np.uint64), 0
    while covered < n:
        if n & length:
            total = total[: len(words) - covered - length + 1] * _power(length) + run[covered:]
            covered += length
        if covered < n:
            run = run[: len(run) - length] * _power(length) + run[length:]
            length *= 2
    return mix(total)


def mix(values: UInt64[np.ndarray, " *shape"]) -> UInt64[np.ndarray, " *shape"]:
    """Scatter 64-bit numbers, one to one: every bit of the result depends on all bits of the number.

    Source: the finaliser of splitmix64, Steele et al. 2014, doi:10.1145/2660193.2660195.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def blocks(texts: Sequence[str], chars: int = BLOCK_CHARS) -> Iterator[tuple[int, int]]:
    """Cut a list of texts into ranges ``(first, stop)`` of about so many characters, each of at least one text."""
    first = held = 0
    for index, text in enumerate(texts):
        if held and held + len(text) > chars:
            yield first, index
            first, held = index, 0
        held += len(text) + 1
    if first < len(texts):
        yield first, len(texts)


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_WEIGHT, exponent, 1 << 64))


def _hash_words(
    buffer: UInt8[np.ndarray, " bytes"], starts: Int64[np.ndarray, " words"], lengths: Int64[np.ndarray, " words"]
) -> UInt64[np.ndarray, " words"]:
    """Hash words by their bytes, eight at a time; ``buffer`` goes on for eight bytes after the last word."""
    chunks = np.ndarray((len(buffer) - 7,), "<u8", buffer, strides=(1,))  # the eight bytes from each place on
    hashes = mix(chunks[starts] & _CHUNK_MASKS[np.minimum(lengths, 8)])
    left, done = np.flatnonzero((lengths > 8) & (lengths <= _LONG_WORD)), 8
    while len(left):
        chunk = chunks[starts[left] + done] & _CHUNK_MASKS[np.minimum(lengths[left] - done, 8)]
        hashes[left] = mix(hashes[left] ^ chunk)
        done += 8
        left = left[lengths[left] > done]
    for index in np.flatnonzero(lengths > _LONG_WORD):
        word = buffer[starts[index] : starts[index] + lengths[index]].tobytes()
        hashes[index] = int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
    return hashes


def _fold(text: str) -> bytes:
    """A text with a blank for everything that is not part of a word, and the rest without case and accents."""
    if text.isascii():
        return text.encode().translate(_ascii_table())
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    folded = _unicode_table().take(codes, mode="clip")
    largest = folded.max()
    if largest < 128:
        return folded.astype(np.uint8).tobytes()
    if largest >= _ALONE:
        folded = _cut_around(folded)
    return folded.tobytes().decode("utf-32-le").encode()


def _cut_around(codes: UInt32[np.ndarray, " chars"]) -> UInt32[np.ndarray, " more_chars"]:
    """Put cuts before and after the characters that are words by themselves, and take their mark off."""
    alone = codes >= _ALONE
    edges = np.flatnonzero(alone | np.r_[False, alone[:-1]])
    return np.insert(codes & ~_ALONE, edges, _CUT)


@cache
def _ascii_table() -> bytes:
    return bytes(_fold_char(code) if code < 128 else _SEPARATOR for code in range(256))


@cache
def _unicode_table() -> UInt32[np.ndarray, " codes"]:
    """What each code point folds to; beyond the second plane there are ideographs only, which stay as they are."""
    table = np.full(sys.maxunicode + 1, _SEPARATOR, "<u4")
    table[:0x20000] = [_fold_char(code) for code in range(0x20000)]
    table[0x20000:0x40000] = np.arange(0x20000, 0x40000)
    for first, stop in _UNSPACED:
        script = table[first:stop]
        script[script != _SEPARATOR] |= _ALONE
    return table


def _fold_char(code: int) -> int:
    """The letter, mark or digit without case and accent; a separator for everything else."""
    if unicodedata.category(chr(code))[0] not in "LMN":
        return _SEPARATOR
    lower = chr(code).lower()
    base = [char for char in unicodedata.normalize("NFKD", lower) if not unicodedata.combining(char)]
    for folded in (base, lower):
        if len(folded) == 1 and unicodedata.category(folded[0])[0] in "LMN":
            return ord(folded[0])
    return code
