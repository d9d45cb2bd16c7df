"""A corpus artifact made of given texts."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayllm.core.artifact import Artifact
from rayllm.core.stage import Task, Work, run_task
from rayllm.pipelines.frame import Frame

Shards = Sequence[Sequence[str]]
MakeCorpus = Callable[[Mapping[str, Mapping[str, Shards]]], Artifact]


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    """A function from ``{domain: {split: [shard of texts, ...]}}`` to a published corpus artifact."""

    def make(domains: Mapping[str, Mapping[str, Shards]]) -> Artifact:
        def prepare(work: Work) -> dict:
            counts: dict = {}
            for domain, splits in domains.items():
                counts[domain] = {
                    split: _write(Path(work.path(split, domain)), shards) for split, shards in splits.items()
                }
            return {"domains": counts}

        return run_task(Task("prepare", prepare, Frame(name="test")), str(tmp_path / "corpora"), force=True)[0]

    return make


def _write(directory: Path, shards: Shards) -> dict[str, int]:
    directory.mkdir(parents=True)
    for number, texts in enumerate(shards):
        columns = {
            "id": [f"{directory.name}-{number}-{i}" for i in range(len(texts))],
            "text": list(texts),
            "source": ["test"] * len(texts),
            "metadata": [json.dumps({})] * len(texts),
        }
        schema = pa.schema([(name, pa.string()) for name in columns])
        pq.write_table(pa.table(columns, schema), directory / f"{number:05d}.parquet", compression="zstd")
    texts = [text for shard in shards for text in shard]
    return {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
