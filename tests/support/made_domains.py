"""Packed data of several domains of given sizes, whose tokens mean nothing: for tests that train nothing."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from packing_fixture import Splits, publish

from rayllm.core.artifact import Artifact
from rayllm.core.stage import Work
from rayllm.data.shards.format import ShardRecord, dtype_for
from rayllm.data.shards.writer import ShardWriter
from rayllm.tokenizer.codec import Codec

DOCUMENT_TOKENS = 50
#: The size of each split, as a share of that of training.
SPLITS = {"train": 1.0, "validation": 0.1}


def pack_domains(root: Path, sizes: Mapping[str, int]) -> Artifact:
    """A packed artifact with these domains, the validation split a tenth as large."""

    def write(work: Work, codec: Codec) -> Splits:
        return {
            split: {
                name: [_shard(work, codec, f"{split}/{name}/00000", int(size * part))] for name, size in sizes.items()
            }
            for split, part in SPLITS.items()
        }

    return publish(root, ["no merges are needed"], 300, write)


def _shard(work: Work, codec: Codec, name: str, count: int) -> ShardRecord:
    tokens = np.random.default_rng(0).integers(codec.separator_id + 1, codec.vocab_size, count)
    starts = np.arange(0, count, DOCUMENT_TOKENS)
    tokens[starts] = codec.separator_id
    with ShardWriter(work.directory, name, dtype_for(codec.vocab_size)) as writer:
        writer.append(tokens, starts, count)
    return writer.record
