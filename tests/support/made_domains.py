"""Packed data of several domains of given sizes, whose tokens mean nothing: for tests that train nothing."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rayllm.core.artifact import Artifact
from rayllm.core.stage import Task, Work, run_task
from rayllm.data.shards.format import PackedIndex, ShardRecord, dtype_for
from rayllm.data.shards.writer import ShardWriter
from rayllm.pipelines.frame import Frame
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

DOCUMENT_TOKENS = 50


def pack_domains(root: Path, sizes: Mapping[str, int]) -> Artifact:
    """A packed artifact with these domains, the validation split a tenth as large."""

    def fill(work: Work) -> dict:
        freeze(
            train_bpe(iter(["no merges are needed"]), vocab_size=300, min_frequency=2, max_digits=1, num_reserved=0),
            work.directory,
        )
        codec = Codec.load(work.directory)
        shards = {"train": 1.0, "validation": 0.1}
        splits = {
            split: {
                name: [_shard(work, codec, f"{split}/{name}/00000", int(size * part))] for name, size in sizes.items()
            }
            for split, part in shards.items()
        }
        PackedIndex(
            dtype=dtype_for(codec.vocab_size),
            vocab_size=codec.vocab_size,
            tokenizer_sha256=codec.sha256,
            separator_id=codec.separator_id,
            splits=splits,
        ).write(work.directory)
        return {}

    return run_task(Task("pack", fill, Frame(name="made")), str(root))[0]


def _shard(work: Work, codec: Codec, name: str, count: int) -> ShardRecord:
    tokens = np.random.default_rng(0).integers(codec.separator_id + 1, codec.vocab_size, count)
    starts = np.arange(0, count, DOCUMENT_TOKENS)
    tokens[starts] = codec.separator_id
    with ShardWriter(work.directory, name, dtype_for(codec.vocab_size)) as writer:
        writer.append(tokens, starts, count)
    return writer.record
