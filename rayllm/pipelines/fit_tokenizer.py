"""fit_tokenizer: a corpus to a frozen tokenizer.

In: the corpus artifact. Out: ``tokenizer.json``, ``tokenizer_config.json``, ``token_bytes.npy``; the counts say how
well each domain's validation text is compressed. Three ways (``tokenizer.config``): BPE, SuperBPE, or a tokenizer that
exists. One process: the trainer has threads of its own, and what it reads is capped, so a larger corpus costs no more.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from rayllm.core import storage
from rayllm.core.artifact import Artifact, FileRecord, check_files
from rayllm.core.checkpoint import find_checkpoint
from rayllm.core.errors import DataError
from rayllm.core.log import get_logger
from rayllm.core.progress import Step
from rayllm.core.stage import Work
from rayllm.pipelines.corpus_shards import domain_shards, read_texts
from rayllm.pipelines.frame import Frame
from rayllm.pipelines.progress import track
from rayllm.tokenizer.adopt import GZIP, TOKENIZER_FILES, check_tokenizer, read_tokenizer
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.comparison.measure import measure
from rayllm.tokenizer.config import AdoptConfig, BpeConfig, SuperBpeConfig, TokenizerConfig
from rayllm.tokenizer.freeze import TOKENIZER_JSON, freeze
from rayllm.tokenizer.sample import plan_budgets, spread, take, within_budget
from rayllm.tokenizer.superwords.superbpe import Superwords, train_superbpe

logger = get_logger(__name__)

VERSION = 1

#: Shards of one domain that are read at most: of a corpus of thousands, this many, evenly spaced, are sample enough.
MAX_SHARDS = 64
MEASURE_BYTES = 4 << 20
BATCH_BYTES = 1 << 20


class Config(Frame):
    """What fit_tokenizer reads of a run file."""

    fit_tokenizer: TokenizerConfig = Field(default=BpeConfig(), description="The tokenizer.")


def run(work: Work) -> dict[str, Any]:
    """Train or adopt a tokenizer, freeze it, and measure it on each domain's validation text."""
    settings: TokenizerConfig = work.config.fit_tokenizer
    corpus = work.inputs["prepare"]
    with _all_threads():
        if isinstance(settings, AdoptConfig):
            (data, separator), sampled = _adopt(settings), {}
        else:
            (data, sampled), separator = _train(settings, corpus, work.config.seed), None
        codec = Codec.load(work.directory, freeze(data, work.directory, separator))
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


def fingerprint(config: Config) -> dict[str, str]:
    """The tokenizer of a checkpoint, as it is now: the same path may hold another one after the next run."""
    settings = config.fit_tokenizer
    if not isinstance(settings, AdoptConfig) or _is_file(settings.from_file):
        return {}
    return {"tokenizer": hashlib.sha256(storage.read_bytes(_tokenizer_file(settings))).hexdigest()}


def _is_file(uri: str) -> bool:
    return uri.removesuffix(GZIP).endswith(TOKENIZER_FILES)


def _tokenizer_file(settings: AdoptConfig) -> str:
    """The file itself, or that of the checkpoint that is named."""
    uri = settings.from_file
    return uri if _is_file(uri) else storage.join(find_checkpoint(uri), TOKENIZER_JSON)


def _adopt(settings: AdoptConfig) -> tuple[bytes, str]:
    """The tokenizer of a file, and its separator."""
    file = _tokenizer_file(settings)
    data = read_tokenizer(
        file,
        expected_sha256=settings.from_file_sha256,
        pattern=settings.pattern,
        special_tokens=settings.special_tokens,
    )
    return data, check_tokenizer(data, file, settings.separator)


def _train(settings: BpeConfig | SuperBpeConfig, corpus: Artifact, seed: int) -> tuple[bytes, dict[str, int]]:
    """A new tokenizer, and how many bytes of each domain it has learned from."""
    shards = domain_shards(corpus, "train")
    available = {domain: corpus.counts["domains"][domain]["train"]["bytes"] for domain in shards}
    budgets = plan_budgets(available, settings.max_bytes, settings.weights)
    if not budgets:
        raise DataError("the corpus has no training text", where=corpus.uri, fix="look at its data_card.md")
    sampled = dict.fromkeys(budgets, 0)

    def texts() -> Iterator[str]:
        """The sample; the same each time."""
        for domain, budget in budgets.items():
            sampled[domain] = 0
            for text in _sample(corpus, shards[domain], budget, available[domain], seed):
                sampled[domain] += len(text.encode())
                yield text

    labels = iter(("reading", "reading again"))

    def watched() -> Iterator[str]:
        """The sample, shown as it is read: once for words, and with SuperBPE once more for what crosses them."""
        total = sum(budgets.values())
        return track(texts(), f"fit_tokenizer: {next(labels)}", total=total, step=_step, unit="bytes")

    sizes = {
        "vocab_size": settings.vocab_size,
        "min_frequency": settings.min_frequency,
        "max_digits": settings.max_digits,
        "num_reserved": settings.num_reserved,
    }
    if isinstance(settings, SuperBpeConfig):
        limits = Superwords(transition_size=settings.transition, max_words=settings.max_words)
        return train_superbpe(watched, limits, **sizes), sampled
    return train_bpe(watched(), **sizes), sampled


def _step(text: str) -> Step:
    """What one text of the sample says to those who watch."""
    size = len(text.encode())
    return Step(size, documents=1, bytes=size)


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
        fit = measure(codec.encoder, _head(corpus, records, MEASURE_BYTES))
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


def _log_size(vocab_size: int, settings: TokenizerConfig) -> None:
    if not isinstance(settings, AdoptConfig) and vocab_size < settings.vocab_size:
        logger.warning(
            "the text fills %s of the %s ids asked for; the tokenizer has %s (more text, a higher max_bytes or a lower "
            "min_frequency would give more)",
            f"{vocab_size:,}",
            f"{settings.vocab_size:,}",
            f"{vocab_size:,}",
        )
    else:
        logger.info("tokenizer of %s ids", f"{vocab_size:,}")
