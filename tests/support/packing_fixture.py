"""A small packed artifact made without Ray, for tests of what reads it."""

import os
from pathlib import Path

import pyarrow as pa

from rayllm.core.artifact import Artifact
from rayllm.core.config import ConfigModel
from rayllm.core.stage import Task, Work, run_task
from rayllm.data.shards.flatten import pack_texts
from rayllm.data.shards.format import PackedIndex, dtype_for
from rayllm.data.shards.writer import ShardWriter
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze


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

    def fill(work: Work) -> dict[str, object]:
        texts = {domain: texts_of(domain, count) for domain in ("code", "math")}
        data = train_bpe(
            iter(text for part in texts.values() for text in part[20:]),
            vocab_size=vocab_size,
            min_frequency=2,
            max_digits=1,
            num_reserved=0,
        )
        sha256 = freeze(data, work.directory)
        codec = Codec.load(work.directory)
        splits: dict[str, dict[str, list]] = {"train": {}, "validation": {}}
        for domain, part in texts.items():
            for split, chosen in (("validation", part[:20]), ("train", part[20:])):
                with ShardWriter(work.directory, f"{split}/{domain}/00000", dtype_for(codec.vocab_size)) as writer:
                    batch = pack_texts(codec, pa.array(chosen))
                    writer.append(batch.tokens, batch.starts, batch.text_bytes)
                splits[split][domain] = [writer.record]
        PackedIndex(
            dtype=dtype_for(codec.vocab_size),
            vocab_size=codec.vocab_size,
            tokenizer_sha256=sha256,
            separator_id=codec.separator_id,
            splits=splits,
        ).write(work.directory)
        return {}

    return run_task(Task("pack", fill, Nothing()), str(root))[0]
