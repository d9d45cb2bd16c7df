"""What an encoder does, and the two that we have.

``Reference`` is exact by definition. ``Fast`` (fastokens, Rust) is forty times as fast on words that it has seen and
takes no Python object a token; where it was tried, its ids are the reference's, and ``choose`` tries it again for every
tokenizer.
"""

import json
import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Int64, UInt32
from tokenizers import Tokenizer


class Flat(NamedTuple):
    """Texts as ids, one text after the other.

    Attributes:
        ids: All ids.
        lengths: Ids of each text.
    """

    ids: UInt32[np.ndarray, " tokens"]
    lengths: Int64[np.ndarray, " texts"]


class Encoder(Protocol):
    """Turns texts into ids; text that spells a special token is ordinary text."""

    name: str

    def encode(self, texts: Sequence[str]) -> Flat:
        """The ids of texts, without special tokens."""
        ...


class Reference:
    """Hugging Face ``tokenizers``."""

    name = "tokenizers"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> Flat:
        """See ``Encoder``."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        parts = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        return Flat(np.concatenate(parts) if parts else np.empty(0, np.uint32), lengths)


class Fast:
    """The fastokens library.

    Args:
        tokenizer_json: The tokenizer.

    Raises:
        ImportError: If the library is not installed.
        ValueError: If it does not know something in the tokenizer.
    """

    name = "fastokens"

    def __init__(self, tokenizer_json: str) -> None:
        if os.environ.get("TOKENIZERS_PARALLELISM") == "false":  # then a process is to be one thread; read at import
            os.environ.setdefault("RAYON_NUM_THREADS", "1")
            os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
        from fastokens import Tokenizer as Fastokens

        self._tokenizer = Fastokens.from_json_str(without_gaps(tokenizer_json))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> Flat:
        """See ``Encoder``."""
        ids, offsets = self._tokenizer.encode_batch_flat(list(texts), split_special_tokens=True)
        return Flat(np.frombuffer(ids, "<u4"), np.diff(np.frombuffer(offsets, "<u8").astype(np.int64)))


def without_gaps(tokenizer_json: str) -> str:
    """The tokenizer without the special tokens above its other tokens: no text has their ids, and gaps between them
    (cl100k lacks 100256) are refused by the library."""
    state = json.loads(tokenizer_json)
    special = {token["content"] for token in state["added_tokens"] if token["special"]}
    vocab = state["model"].get("vocab")
    if not isinstance(vocab, dict):
        return tokenizer_json
    highest = max((index for token, index in vocab.items() if token not in special), default=-1)
    state["model"]["vocab"] = {token: index for token, index in vocab.items() if index <= highest}
    return json.dumps(state)
