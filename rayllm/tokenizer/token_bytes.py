"""How many bytes of text each token id stands for: what turns a loss per token into bits per byte.

Two families of vocabulary spell bytes exactly and are understood here: byte-level BPE (GPT-2 and its many heirs), where
every character of a token is one byte, and byte-fallback BPE (Llama 2, SentencePiece), where ``▁`` is a space and
``<0x0A>`` a byte.
"""

import json
import re
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt16
from tokenizers import Tokenizer

from rayllm.core.errors import DataError

_FALLBACK_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SPACE_MARK = "▁"


def token_bytes(tokenizer: Tokenizer) -> UInt16[np.ndarray, " vocab_size"]:
    """Bytes of UTF-8 text that each id stands for; 0 for special tokens and for ids that the vocabulary skips.

    Raises:
        DataError: If the vocabulary does not spell bytes (WordPiece, Unigram without byte fallback).
    """
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    added = tokenizer.get_added_tokens_decoder()
    length_of = _family(tokenizer)
    counts = np.zeros(max(vocab.values()) + 1, np.uint16)
    for token, index in vocab.items():
        if index not in added:
            counts[index] = length_of(token)
        elif not added[index].special:
            counts[index] = len(token.encode())
    return counts


def _family(tokenizer: Tokenizer) -> Callable[[str], int]:
    """How this vocabulary spells bytes: a function from a token to its length in bytes."""
    state = json.loads(tokenizer.to_str())
    kinds = _kinds(state["decoder"])
    if "ByteLevel" in kinds:
        return len
    if "ByteFallback" in kinds and state["model"]["type"] == "BPE":
        return lambda token: 1 if _FALLBACK_BYTE.fullmatch(token) else len(token.replace(SPACE_MARK, " ").encode())
    raise DataError(
        "this tokenizer does not spell every byte, so text would not survive it",
        why=f"its model is {state['model']['type']}, its decoder {', '.join(sorted(kinds)) or 'missing'}",
        fix="use a byte-level BPE tokenizer (GPT-2, Llama 3, Qwen) or a byte-fallback BPE one (Llama 2)",
    )


def _kinds(part: dict | None) -> set[str]:
    """Types of a component of ``tokenizer.json`` and of those inside it."""
    if part is None:
        return set()
    return {part["type"]}.union(*(_kinds(inner) for inner in part.get("decoders", ())))
