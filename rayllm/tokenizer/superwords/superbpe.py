"""SuperBPE: byte pair encoding that learns words first, and then tokens that cross words.

In: texts, twice. Out: the bytes of a ``tokenizer.json`` that any Hugging Face ``tokenizers`` reads. Stage 1 is plain
BPE (``bpe``) up to a vocabulary of ``transition_size``. Stage 2 lifts the borders between words, keeping only those of
``patterns.superwords``, encodes the texts anew with the merges of stage 1, and goes on merging (``merges``). What is
learned is what encoding does: encoding applies merges in the order of the list, stage 1's all come first, and stage 2
learned from texts in just that state. So a superword never takes a word apart that stage 1 would have joined.

A superword has at most ``max_words`` words, and no token goes on behind a colon and a space: a prompt that ends in
``Answer:`` would otherwise end within a token that training always saw whole.

Source: Liu et al. 2025, SuperBPE, arXiv:2503.13423, section 2; the limits are those of the authors' published
vocabularies (``mw4_colon``).
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer

from rayllm.core.log import get_logger
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.formats.byte_alphabet import spell, unspell
from rayllm.tokenizer.patterns import byte_level, superwords
from rayllm.tokenizer.special import ordinary
from rayllm.tokenizer.superwords.merges import BORDER, Pair, learn_merges

logger = get_logger(__name__)

BATCH_BYTES = 1 << 20
_COLON = re.compile(rb":\s")


@dataclass(frozen=True)
class Superwords:
    """What stage 2 may join.

    Attributes:
        transition_size: Vocabulary at which stage 2 begins.
        max_words: Words in a token at most.
    """

    transition_size: int
    max_words: int


def train_superbpe(
    texts: Callable[[], Iterator[str]],
    limits: Superwords,
    *,
    vocab_size: int,
    min_frequency: int,
    max_digits: int,
    num_reserved: int,
) -> bytes:
    """Learn both stages; the same texts give the same bytes, whatever the number of threads.

    Args:
        texts: Gives the texts anew each time; called twice. Takes about 23 bytes of memory for each byte.
        limits: What stage 2 may join.
        vocab_size: Ids in all, special tokens and the 256 bytes included; fewer when the texts run out of pairs.
        min_frequency: A pair seen less often is not merged.
        max_digits: Longest group of digits in a token, 1 to 3.
        num_reserved: Special tokens kept for later use.

    Returns:
        The content of ``tokenizer.json``.
    """
    words = train_bpe(
        texts(),
        vocab_size=limits.transition_size,
        min_frequency=min_frequency,
        max_digits=max_digits,
        num_reserved=num_reserved,
    )
    tokenizer = ordinary(Tokenizer.from_str(words.decode()))
    tokenizer.pre_tokenizer = byte_level(superwords(max_digits))
    vocabulary = _Vocabulary(tokenizer, limits.max_words)
    first = len(vocabulary)
    logger.info("stage 1: %s tokens within words; stage 2 joins at most %d words", f"{first:,}", limits.max_words)
    learned = learn_merges(
        encode_pieces(tokenizer, texts()),
        next_id=first,
        num_merges=vocab_size - first,
        min_frequency=min_frequency,
        allow=vocabulary.accept,
    )
    logger.info("stage 2: %s tokens more, %s of them cross words", f"{len(learned):,}", f"{vocabulary.crossing:,}")
    return _extended(tokenizer, vocabulary, learned)


class _Vocabulary:
    """The bytes of each token, new ones included, and which new ones there may be."""

    def __init__(self, tokenizer: Tokenizer, max_words: int) -> None:
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        by_id = sorted((index, token) for token, index in tokenizer.get_vocab().items())
        self.bytes = [b"" if token in special else unspell(token) for _, token in by_id]
        self.crossing = 0
        self._known = set(self.bytes)
        self._max_words = max_words

    def __len__(self) -> int:
        return len(self.bytes)

    def accept(self, left: int, right: int) -> bool:
        """Whether two tokens may become one; if so, it is added."""
        token = self.bytes[left] + self.bytes[right]
        words = count_words(token)
        if words > self._max_words or _COLON.search(token) or token in self._known:
            return False
        self.bytes.append(token)
        self._known.add(token)
        self.crossing += words > 1
        return True


def count_words(token: bytes) -> int:
    """Words of a token: runs of what is not white space. Bytes that are half a character count as a letter."""
    return len(token.decode(errors="replace").split())


def encode_pieces(tokenizer: Tokenizer, texts: Iterator[str]) -> Int32[np.ndarray, " tokens"]:
    """Texts as tokens with a ``BORDER`` between pieces, and at both ends: merges cross no border."""
    parts = [np.array([BORDER], np.int32)]
    for batch in _batches(texts):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            if len(encoding):
                parts.append(_bordered(encoding.ids, encoding.word_ids))
    return np.concatenate(parts)


def _bordered(ids: Sequence[int], pieces: Sequence[int | None]) -> Int32[np.ndarray, " tokens"]:
    """Ids with a border where another piece begins, and at the end."""
    found, number = np.array(ids, np.int32), np.array(pieces, np.int32)
    ends = np.append(np.flatnonzero(np.diff(number)) + 1, len(found))
    return np.insert(found, ends, BORDER)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Texts of about a megabyte together; a longer one is alone."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _extended(tokenizer: Tokenizer, vocabulary: _Vocabulary, learned: Sequence[Pair]) -> bytes:
    """The tokenizer with the merges of stage 2 behind those of stage 1."""
    state = json.loads(tokenizer.to_str())
    tokens = [spell(token) for token in vocabulary.bytes]
    first = len(tokens) - len(learned)
    model = state["model"]
    model["vocab"].update(zip(tokens[first:], range(first, len(tokens)), strict=True))
    model["merges"] = list(chain(model["merges"], ([tokens[left], tokens[right]] for left, right in learned)))
    return json.dumps(state, ensure_ascii=False, indent=1).encode()
