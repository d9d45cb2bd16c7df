"""fit_tokenizer: a corpus to a frozen tokenizer.

In: the corpus artifact. Out: ``tokenizer.json``, ``tokenizer_config.json``, ``token_bytes.npy``; the counts say how
well each domain's validation text is compressed. One process: the trainer has threads of its own, and what it reads is
capped, so a larger corpus costs no more.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from pydantic import Field, field_validator, model_validator

from rayllm.core.artifact import Artifact, FileRecord, check_files
from rayllm.core.config import ConfigModel, Count
from rayllm.core.errors import DataError
from rayllm.core.log import get_logger
from rayllm.core.stage import Work
from rayllm.pipelines.corpus_shards import domain_shards, read_texts
from rayllm.pipelines.frame import Frame
from rayllm.tokenizer.adopt import read_tokenizer
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze
from rayllm.tokenizer.measure import measure
from rayllm.tokenizer.sample import plan_budgets, spread, take, within_budget
from rayllm.tokenizer.special import smallest_vocab

logger = get_logger(__name__)

VERSION = 1

#: Shards of one domain that are read at most: of a corpus of thousands, this many, evenly spaced, are sample enough.
MAX_SHARDS = 64
MEASURE_BYTES = 4 << 20
BATCH_BYTES = 1 << 20


class FitTokenizerConfig(ConfigModel):
    """A byte-level BPE of our own, or a tokenizer taken over."""

    vocab_size: Count = Field(
        default=8192, le=2**31 - 1, description="Ids in all: special tokens, the 256 bytes, and learned tokens."
    )
    max_bytes: Count = Field(default=64 << 20, ge=1, description="Text to learn from at most, in bytes.")
    weights: dict[str, float] | None = Field(
        default=None, description="Weight of each domain in the text to learn from; by default each as it comes."
    )
    min_frequency: int = Field(default=2, ge=1, description="A pair of tokens seen less often is not merged.")
    max_digits: int = Field(default=3, ge=1, le=3, description="Longest group of digits in one token.")
    num_reserved: int = Field(default=4, ge=0, le=1024, description="Special tokens kept for later use.")
    from_file: str | None = Field(
        default=None, description="URI of a tokenizer.json to take over as it is; then nothing is learned."
    )
    from_file_sha256: str | None = Field(default=None, description="What the file of `from_file` must hash to.")

    @field_validator("weights")
    @classmethod
    def _not_negative(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and (bad := [name for name, weight in value.items() if weight < 0]):
            raise ValueError(f"weights must not be negative: {', '.join(bad)}")
        return value

    @model_validator(mode="after")
    def _room_for_bytes(self) -> "FitTokenizerConfig":
        if self.vocab_size < (least := smallest_vocab(self.num_reserved)):
            raise ValueError(f"vocab_size must be at least {least}: 256 bytes and the special tokens")
        if self.from_file_sha256 and not self.from_file:
            raise ValueError("from_file_sha256 needs from_file")
        return self


class Config(Frame):
    """What fit_tokenizer reads of a run file."""

    fit_tokenizer: FitTokenizerConfig = Field(default=FitTokenizerConfig(), description="The tokenizer.")


def run(work: Work) -> dict[str, Any]:
    """Train or adopt a tokenizer, freeze it, and measure it on each domain's validation text."""
    settings: FitTokenizerConfig = work.config.fit_tokenizer
    corpus = work.inputs["prepare"]
    with _all_threads():
        if settings.from_file:
            data, sampled = read_tokenizer(settings.from_file, settings.from_file_sha256), {}
        else:
            data, sampled = _train(settings, corpus, work.config.seed)
        codec = Codec.load(work.directory, freeze(data, work.directory))
        _log_size(codec.vocab_size, settings)
        return {
            "vocab_size": codec.vocab_size,
            "sha256": codec.sha256,
            "sampled_bytes": sampled,
            "domains": _measure(codec, corpus),
        }


@contextlib.contextmanager
def _all_threads() -> Iterator[None]:
    """Let `tokenizers` use its threads, as many as this process may have; beside Ray they are switched off."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _train(settings: FitTokenizerConfig, corpus: Artifact, seed: int) -> tuple[bytes, dict[str, int]]:
    """A new tokenizer, and how many bytes of each domain it has learned from."""
    shards = domain_shards(corpus, "train")
    available = {domain: corpus.counts["domains"][domain]["train"]["bytes"] for domain in shards}
    budgets = plan_budgets(available, settings.max_bytes, settings.weights)
    if not budgets:
        raise DataError("the corpus has no training text", where=corpus.uri, fix="look at its data_card.md")
    sampled = dict.fromkeys(budgets, 0)

    def texts() -> Iterator[str]:
        for domain, budget in budgets.items():
            for text in _sample(corpus, shards[domain], budget, available[domain], seed):
                sampled[domain] += len(text.encode())
                yield text

    data = train_bpe(
        texts(),
        vocab_size=settings.vocab_size,
        min_frequency=settings.min_frequency,
        max_digits=settings.max_digits,
        num_reserved=settings.num_reserved,
    )
    return data, sampled


def _sample(corpus: Artifact, records: list[FileRecord], budget: int, available: int, seed: int) -> Iterator[str]:
    """About ``budget`` bytes of a domain's ``available`` bytes of text, spread over its shards."""
    chosen = [records[i] for i in spread(len(records), MAX_SHARDS)]
    check_files(corpus.uri, chosen, deep=True)
    share = sum(record.bytes for record in chosen) / sum(record.bytes for record in records)
    rate = budget / (available * share)

    def taken() -> Iterator[str]:
        for record in chosen:
            texts = (t for batch in read_texts(corpus.file(record.path), BATCH_BYTES) for t in batch.to_pylist())
            yield from take(texts, rate, seed, record.path)

    return within_budget(taken(), budget)


def _measure(codec: Codec, corpus: Artifact) -> dict[str, dict[str, float | int]]:
    """Compression and fertility by domain, on the head of its validation text."""
    found = {}
    for domain, records in domain_shards(corpus, "validation").items():
        fit = measure(codec, _head(corpus, records, MEASURE_BYTES))
        found[domain] = {
            "measured_bytes": fit.bytes,
            "bytes_per_token": round(fit.bytes_per_token, 4),
            "tokens_per_word": round(fit.tokens_per_word, 4),
        }
        logger.info("%s: %.2f bytes/token, %.2f tokens/word", domain, fit.bytes_per_token, fit.tokens_per_word)
    return found


def _head(corpus: Artifact, records: list[FileRecord], limit: int) -> Iterator[list[str]]:
    """Batches of texts from the first shards on, until ``limit`` bytes have been read."""
    for record in records:
        check_files(corpus.uri, [record], deep=True)
        for batch in read_texts(corpus.file(record.path), BATCH_BYTES):
            yield batch.to_pylist()
            limit -= batch.nbytes
            if limit <= 0:
                return


def _log_size(vocab_size: int, settings: FitTokenizerConfig) -> None:
    if not settings.from_file and vocab_size < settings.vocab_size:
        logger.warning(
            "the text fills %s of the %s ids asked for; the tokenizer has %s (more text, a higher max_bytes or a lower "
            "min_frequency would give more)",
            f"{vocab_size:,}",
            f"{settings.vocab_size:,}",
            f"{vocab_size:,}",
        )
    else:
        logger.info("tokenizer of %s ids", f"{vocab_size:,}")
