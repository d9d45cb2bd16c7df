"""Texts to compare encoders on: real ones of several kinds, and fuzzed Unicode."""

import json
import random
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

_FILES = ("text/c4_en.jsonl", "math/gsm8k_train.jsonl", "text/udhr_multilingual.jsonl", "sft/code_alpaca_2k.jsonl")
_PIECES = [
    "'s", "'S", "'\u017f", "'LL", "'Ve", "don't", "<|endoftext|>", "</s>", "<s>", "<unk>", "<0x0A>", "\u2581", " ",
    "\u0120", "123", "12,345.67", "\r\n", "\n\n ", "\t", "\u00a0", "\u3000", "\u200b", "\u0301", "x", "The", "!?",
]  # fmt: skip


def real_texts(folder: Path, size: int) -> list[str]:
    """Web pages, maths, code and 39 languages, about ``size`` bytes of each file's head together."""
    texts = []
    for name in _FILES:
        left = size // len(_FILES)
        for line in (folder / name).read_text(encoding="utf-8").split("\n"):
            if line and left > 0:
                texts.append("\n".join(value for value in json.loads(line).values() if isinstance(value, str)))
                left -= len(texts[-1].encode())
    return texts


def fuzzed_texts(count: int, seed: int = 11) -> list[str]:
    """Random characters of all of Unicode, runs of one character, and mixtures of awkward pieces."""
    rng = random.Random(seed)
    texts = [""]
    for number in range(count):
        if number % 3 == 0:
            points = [rng.randrange(0x110000) if rng.random() < 0.5 else rng.randrange(0x3100) for _ in range(50)]
            texts.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
        elif number % 3 == 1:
            texts.append(rng.choice("aA0 \n\t-=_*#.é中K'") * rng.randrange(1, 300) + rng.choice(_PIECES))
        else:
            texts.append("".join(rng.choice(_PIECES) for _ in range(30)))
    return texts


def assert_same_ids(tokenizer: Tokenizer, reference: Callable[[str], list[int]], texts: list[str]) -> None:
    """Compare a tokenizer with another implementation, text by text."""
    for text, found in zip(texts, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True):
        assert found.ids == reference(text), text[:200]
