"""What the stages do on Ray, in this process; and a small model to fine-tune."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packing_fixture import make_packed
from ranks import run_ranks
from small_session import forked_run, make_config

from rayllm.core.artifact import Artifact
from rayllm.pipelines import pack, prepare, reference


def encode_here(tasks: Iterable[pack.ShardTask], tokenizer: Artifact, config: object) -> Iterator[pack.PackedShard]:
    """Encode shards as the tasks of ``pack`` do."""
    for task in tasks:
        row = {"task": task.model_dump_json()}
        yield pack.read_row(pack.encode_row(row, tokenizer=tokenizer.uri, sha256=tokenizer.counts["sha256"]))


def score_here(tasks: Iterable[reference.PartTask], packed_uri: str, config: reference.Config) -> Iterator[str]:
    """Score parts as the actors of ``reference`` do."""
    scorer = reference.Scorer(config, packed_uri, 1)
    for task in tasks:
        (error,) = scorer({"task": [task.model_dump_json()]})["error"]
        assert not error, error
        yield scorer.compute.precision


@contextmanager
def stages_without_ray() -> Iterator[None]:
    """The stages before training run in plain loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "ensure_ray", lambda _: None)
        patch.setattr(prepare, "run_on_ray", map)
        patch.setattr(pack, "encode_shards", encode_here)
        patch.setattr(reference, "score_parts", score_here)
        yield


def trained_base(root: Path) -> Path:
    """The directory of a run that has trained a model of ``max_seq_len`` 256 for a few steps."""
    packed = make_packed(root / "packed", vocab_size=384, count=60)
    settings = make_config(root, engine={"kind": "torch"}, max_steps=4)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"max_seq_len": 256})})
    run_ranks(forked_run, 1, settings, packed.uri, str(root / "runs/base/train-0123"))
    return root / "runs/base"
