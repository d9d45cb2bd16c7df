"""Small packed artifacts as the pack stage publishes them, made without Ray, for tests of what reads them."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from rayllm.core.artifact import Artifact
from rayllm.core.config import ConfigModel
from rayllm.core.stage import Task, Work, run_task
from rayllm.data.shards.flatten import pack_texts
from rayllm.data.shards.format import PackedIndex, ShardRecord, dtype_for
from rayllm.data.shards.writer import ShardWriter
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

#: The shards of each domain of each split.
Splits = dict[str, dict[str, list[ShardRecord]]]


class Nothing(ConfigModel):
    """No settings."""


def texts_of(domain: str, count: int) -> list[str]:
    """Two little languages that a small model learns quickly."""
    if domain == "math":
        return [f"What is {a} plus {a % 7}? It is {a + a % 7}.\n" for a in range(count)]
    folder = Path(os.__file__).parent
    files = sorted(folder.glob("[a-h]*.py"))
    text = "\n".join(path.read_text(errors="replace") for path in files)
    return [text[i * 1500 : (i + 1) * 1500] for i in range(min(count, len(text) // 1500))]


def make_packed(root: Path, vocab_size: int = 512, count: int = 300) -> Artifact:
    """Pack two domains, ``code`` and ``math``, with a validation split of each."""
    texts = {domain: texts_of(domain, count) for domain in ("code", "math")}
    train = {domain: part[20:] for domain, part in texts.items()}
    validation = {domain: part[:20] for domain, part in texts.items()}
    return pack_splits(root, {"train": train, "validation": validation}, vocab_size)


def pack_splits(root: Path, splits: Mapping[str, Mapping[str, Sequence[str]]], vocab_size: int) -> Artifact:
    """Pack the texts of each domain of each split, with a tokenizer that is learned from those of training."""

    def write(work: Work, codec: Codec) -> Splits:
        return {
            split: {
                domain: [_shard(work, codec, f"{split}/{domain}/00000", texts)] for domain, texts in domains.items()
            }
            for split, domains in splits.items()
        }

    learned = (text for texts in splits["train"].values() for text in texts)
    return publish(root, learned, vocab_size, write)


def publish(root: Path, learned: Iterable[str], vocab_size: int, write: Callable[[Work, Codec], Splits]) -> Artifact:
    """A packed artifact: a tokenizer learned from texts, the shards that are written for it, and their index."""

    def fill(work: Work) -> dict[str, object]:
        data = train_bpe(iter(learned), vocab_size=vocab_size, min_frequency=2, max_digits=1, num_reserved=0)
        sha256 = freeze(data, work.directory)
        codec = Codec.load(work.directory)
        PackedIndex(
            dtype=dtype_for(codec.vocab_size),
            vocab_size=codec.vocab_size,
            tokenizer_sha256=sha256,
            separator_id=codec.separator_id,
            splits=write(work, codec),
        ).write(work.directory)
        return {}

    return run_task(Task("pack", fill, Nothing()), str(root))[0]


def _shard(work: Work, codec: Codec, name: str, texts: Sequence[str]) -> ShardRecord:
    with ShardWriter(work.directory, name, dtype_for(codec.vocab_size)) as writer:
        batch = pack_texts(codec, pa.array(texts))
        writer.append(batch.tokens, batch.starts, batch.text_bytes)
    return writer.record
