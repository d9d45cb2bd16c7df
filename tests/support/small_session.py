"""A small training session on forked ranks, without Ray, and its records."""

import json
from pathlib import Path
from typing import Any

import torch
from tiny_run import TRAIN

from rayllm.pipelines import train
from rayllm.pipelines.train.job import Job
from rayllm.pipelines.train.session import NullSink, Outlets, run_session


def make_config(root: Path, **changes: Any) -> train.Config:
    """A small run of two domains."""
    return train.Config(
        name="t",
        storage=str(root),
        model={"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 64, "max_seq_len": 64},
        mixture={"weights": "uniform"},
        train=TRAIN | changes,
    )


def forked_run(config: train.Config, packed_uri: str, directory: str, reference_uri: str = "") -> dict[str, float]:
    """The same session on a rank that was forked, without Ray."""
    job = Job(config, packed_uri, directory, reference_uri=reference_uri)
    return run_session(job, Outlets(NullSink()), config.train.engine, torch.device("cpu"))[1].validation


def all_records(directory: str, kind: str) -> list[dict[str, Any]]:
    """Records of a kind, in the order in which they were written."""
    lines = Path(directory, "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def records(directory: str, kind: str) -> dict[int, dict[str, Any]]:
    """Records of a kind by step, those of the latest attempt; of several, the last."""
    found = sorted(all_records(directory, kind), key=lambda record: record["attempt"])
    return {record["step"]: record for record in found}
