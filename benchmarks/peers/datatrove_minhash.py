"""datatrove's signature stage over a file of texts; run by the interpreter of its own environment.

Arguments: the texts (JSON list), a file for the band hashes (npy), ``spacy`` (its default for English) or ``split``
(words split at white space, the fastest that it could have). Prints the seconds of ``MinhashDedupSignature.run``, which
writes its sorted signatures, as FineWeb's first stage does.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import HashConfig, MinhashConfig, MinhashDedupSignature
from datatrove.utils.word_tokenizers import WordTokenizer
from loguru import logger


class Split(WordTokenizer):
    """Words at white space."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


def main(texts_path: str, bands_path: str, words: str) -> None:
    logger.remove()
    texts = json.loads(Path(texts_path).read_text())
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=32))
    with tempfile.TemporaryDirectory() as folder:
        stage = MinhashDedupSignature(folder, config=config)
        if words == "split":
            stage.word_tokenizer = Split()
        stage.get_shingles("The tokenizer is loaded by the first text, outside of what is timed.")
        documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
        start = time.perf_counter()
        stage.run(iter(documents), 0, 1)
        seconds = time.perf_counter() - start
        bands = np.zeros((len(texts), 14), np.uint64)
        record = np.dtype([("values", "V32"), ("document", "<u4")])
        for bucket in range(14):
            records = np.fromfile(Path(folder, f"bucket_{bucket:03d}", "00000.minhash.sig"), record)
            _, numbers = np.unique(records["values"], return_inverse=True)
            bands[records["document"], bucket] = numbers
    np.save(bands_path, bands)
    print(seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
