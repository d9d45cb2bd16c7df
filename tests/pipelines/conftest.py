"""A corpus artifact made of given texts, and a run that others fork."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packing_fixture import make_packed
from parent_run import PARENT, train_run
from small_session import make_config

from rayllm.core.artifact import Artifact
from rayllm.core.stage import Task, Work, run_task
from rayllm.pipelines.frame import Frame

Shards = Sequence[Sequence[str]]
MakeCorpus = Callable[[Mapping[str, Mapping[str, Shards]]], Artifact]


@pytest.fixture(scope="session")
def parent_data(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """What ``parent`` was trained on."""
    return make_packed(tmp_path_factory.mktemp("packed"), count=120)


@pytest.fixture(scope="session")
def parent(parent_data: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run; whoever changes it takes a copy."""
    return train_run(make_config(tmp_path_factory.mktemp("parent"), **PARENT), parent_data)


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
