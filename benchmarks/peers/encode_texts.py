"""Encode texts into one uint16 buffer, twice, on one CPU; run in a process of its own for every measurement.

Arguments: the side, the directory of a frozen tokenizer, the texts (JSON: a list of batches), the CPU, a file for the
ids (npz: ids, lengths). Prints JSON: seconds of getting ready, of the first pass, and of a second one, when every cache
has seen every word. The sides differ in their encoder alone: same batches, same clock, same kind of buffer at the end.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Encode = Callable[[Sequence[str]], tuple[np.ndarray, Any]]


def rayllm(directory: str) -> Encode:
    """Our codec; a part of the text is compared with the reference while it encodes."""
    from rayllm.tokenizer.codec import Codec

    codec = Codec.load(directory)
    assert codec.encoder.name == "fastokens"
    return codec.encode_to_buffer


def tokenizers(directory: str) -> Encode:
    """Hugging Face's ``encode_batch_fast``."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
    tokenizer.encode_special_tokens = True

    def encode(texts: Sequence[str]) -> tuple[np.ndarray, Any]:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        parts = [np.array(encoding.ids, np.uint16) for encoding in encodings]
        return np.concatenate(parts), list(map(len, parts))

    return encode


def tiktoken(directory: str) -> Encode:
    """OpenAI's tiktoken over the same vocabulary: ids are ranks, as ids of merges are in the order of merging."""
    from tiktoken import Encoding

    with open(f"{directory}/tokenizer.json", encoding="utf-8") as file:
        state = json.load(file)
    special = {token["content"]: token["id"] for token in state["added_tokens"]}
    letters = _byte_letters()
    ranks = {
        bytes(letters[char] for char in token): index
        for token, index in state["model"]["vocab"].items()
        if token not in special
    }
    split = next(part for part in state["pre_tokenizer"]["pretokenizers"] if part["type"] == "Split")
    encoding = Encoding("same", pat_str=split["pattern"]["Regex"], mergeable_ranks=ranks, special_tokens=special)

    def encode(texts: Sequence[str]) -> tuple[np.ndarray, Any]:
        parts = [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts]
        return np.concatenate(parts).astype(np.uint16), list(map(len, parts))

    return encode


def _byte_letters() -> dict[str, int]:
    """The byte behind each character of a byte-level vocabulary (GPT-2's ``encoder.py``)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


SIDES = {"rayllm": rayllm, "tokenizers": tokenizers, "tiktoken": tiktoken}


def main(side: str, directory: str, batches_path: str, cpu: str, ids_path: str) -> None:
    os.sched_setaffinity(0, {int(cpu)})
    with open(batches_path, encoding="utf-8") as file:
        batches = json.load(file)
    times = [time.perf_counter()]
    encode = SIDES[side](directory)
    times.append(time.perf_counter())
    for _ in range(2):
        found = [encode(batch) for batch in batches]
        ids = np.concatenate([part for part, _ in found])
        times.append(time.perf_counter())
        assert ids.dtype == np.uint16
    np.savez(ids_path, ids=ids, lengths=np.concatenate([lengths for _, lengths in found]))
    ready, first, warm = np.diff(times).tolist()
    print(json.dumps({"ready": ready, "first": first, "warm": warm}))


if __name__ == "__main__":
    main(*sys.argv[1:])
