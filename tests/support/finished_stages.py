"""The artifacts of a run up to ``pack``, made without Ray where the commands look for them."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayllm.core.artifact import Artifact
from rayllm.core.stage import Work, run_task
from rayllm.pipelines import pack
from rayllm.pipelines.run_config import RunConfig
from rayllm.pipelines.runner import artifact_root, stage_task
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

#: Texts of the shards of a domain, by split.
Corpus = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]


def finish_stages(config: RunConfig, corpus: Corpus) -> dict[str, Artifact]:
    """Publish ``prepare``, ``fit_tokenizer`` and ``pack`` of a run.

    Args:
        config: The run.
        corpus: For every domain the shards of each split.
    """

    def prepare(work: Work) -> dict[str, Any]:
        for domain, splits in corpus.items():
            for split, shards in splits.items():
                directory = Path(work.path(split, domain))
                directory.mkdir(parents=True)
                for number, texts in enumerate(shards):
                    ids = [f"{domain}-{split}-{number}-{row}" for row in range(len(texts))]
                    columns = {"id": ids, "text": list(texts), "source": [domain] * len(texts)}
                    table = pa.table(columns | {"metadata": [json.dumps({})] * len(texts)})
                    pq.write_table(table, directory / f"{number:05d}.parquet", row_group_size=5)
        return {"domains": {domain: {} for domain in corpus}}

    def fit_tokenizer(work: Work) -> dict[str, Any]:
        texts = [text for splits in corpus.values() for text in splits["train"][0]]
        data = train_bpe(iter(texts), vocab_size=300, min_frequency=2, max_digits=1, num_reserved=0)
        return {"sha256": freeze(data, work.directory)}

    def encode(tasks: list[pack.ShardTask], tokenizer: Artifact, _: object) -> list[pack.PackedShard]:
        codec = Codec.load(tokenizer.uri)
        return [pack.PackedShard(pack.pack_shard(task, codec), codec.encoder.name) for task in tasks]

    def run_pack(work: Work) -> dict[str, Any]:
        original, pack.encode_shards = pack.encode_shards, encode  # pyright: ignore[reportAttributeAccessIssue]
        try:
            return pack.run(work)
        finally:
            pack.encode_shards = original

    stages: dict[str, Callable[[Work], dict[str, Any]]] = {
        "prepare": prepare,
        "fit_tokenizer": fit_tokenizer,
        "pack": run_pack,
    }
    artifacts: dict[str, Artifact] = {}
    for verb, run in stages.items():
        task = dataclasses.replace(stage_task(config, verb, artifacts), run=run)  # the hash does not look at `run`
        artifacts[verb] = run_task(task, artifact_root(config, verb))[0]
    return artifacts
