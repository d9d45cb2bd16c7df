"""A BPE model's parts as the bytes of ``tokenizer.json``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import decoders, normalizers, pre_tokenizers

Part = normalizers.Normalizer | pre_tokenizers.PreTokenizer | decoders.Decoder


@dataclass(frozen=True)
class BpeParts:
    """What a BPE tokenizer is made of.

    Attributes:
        vocab: Token → id; special tokens included. Ids may have gaps.
        merges: Pairs of tokens, the one that is merged first first.
        special: Names of special tokens, in the order of their ids.
        decoder: Tokens to text.
        pre_tokenizer: Text to pieces; None where merges may join anything.
        normalizer: What is done to the text before.
        byte_fallback: Whether characters outside the vocabulary become ``<0x0A>``-like tokens.
        ignore_merges: Whether a piece that is a token is taken as it is, whatever the merges say.
        unknown: The token for what cannot be spelt.
    """

    vocab: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    special: Sequence[str]
    decoder: decoders.Decoder
    pre_tokenizer: pre_tokenizers.PreTokenizer | None = None
    normalizer: normalizers.Normalizer | None = None
    byte_fallback: bool = False
    ignore_merges: bool = False
    unknown: str | None = None


def to_tokenizer_json(parts: BpeParts) -> bytes:
    """The content of ``tokenizer.json``, in the format of Hugging Face tokenizers, version 1.0."""
    state = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(parts.vocab[name], name) for name in parts.special],
        "normalizer": _state(parts.normalizer),
        "pre_tokenizer": _state(parts.pre_tokenizer),
        "post_processor": None,
        "decoder": _state(parts.decoder),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": parts.unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": parts.unknown is not None,
            "byte_fallback": parts.byte_fallback,
            "ignore_merges": parts.ignore_merges,
            "vocab": dict(sorted(parts.vocab.items(), key=lambda item: item[1])),
            "merges": [list(pair) for pair in parts.merges],
        },
    }
    return json.dumps(state, ensure_ascii=False, indent=1).encode()


def _added(index: int, name: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": name, **flags}


def _state(part: Part | None) -> dict[str, Any] | None:
    """A component's own JSON, as its library writes it into the file."""
    return None if part is None else json.loads(part.__getstate__())
