"""Training runs to measure as processes of their own: random packed data, a run's config, a start with its clock."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from support.peers import REPO

from rayllm.core.config import ConfigModel
from rayllm.core.stage import Task, Work, run_task
from rayllm.data.shards.format import PackedIndex, ShardRecord, dtype_for
from rayllm.data.shards.writer import ShardWriter
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

DOCUMENT_TOKENS = 512
ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "RAY_USAGE_STATS_ENABLED": "0", "WANDB_MODE": "offline"}
#: Steps at the beginning of a run that its speed is not read from.
WARM_UP_STEPS = 5


class Nothing(ConfigModel):
    """No settings."""


def pack_random(root: Path, num_tokens: int) -> str:
    """A packed artifact of random documents, one domain with a validation split; returns where it is."""

    def fill(work: Work) -> dict[str, Any]:
        data = train_bpe(
            iter(["random tokens need no merges"]), vocab_size=300, min_frequency=2, max_digits=1, num_reserved=0
        )
        sha256 = freeze(data, work.directory)
        codec = Codec.load(work.directory)
        dtype = dtype_for(codec.vocab_size)
        splits = {
            split: {"random": [_random_shard(work.directory, split, codec, count)]}
            for split, count in (("train", num_tokens), ("validation", 8 * DOCUMENT_TOKENS))
        }
        sizes = {"dtype": dtype, "vocab_size": codec.vocab_size, "separator_id": codec.separator_id}
        PackedIndex(**sizes, tokenizer_sha256=sha256, splits=splits).write(work.directory)
        return {}

    return run_task(Task("pack", fill, Nothing()), str(root))[0].uri


def _random_shard(directory: str, split: str, codec: Codec, count: int) -> ShardRecord:
    tokens = np.random.default_rng(0).integers(codec.separator_id + 1, codec.vocab_size, count)
    starts = np.arange(0, count, DOCUMENT_TOKENS)
    tokens[starts] = codec.separator_id
    with ShardWriter(directory, f"{split}/random/00000", dtype_for(codec.vocab_size)) as writer:
        writer.append(tokens, starts, count)
    return writer.record


def write_config(file: Path, model: dict[str, Any], train: dict[str, Any], workers: int) -> Path:
    """The part of a run file that train reads; measured steps meet neither validation nor a checkpoint."""
    quiet = {"every_steps": 1_000_000}
    fixed = {
        "logging": {"every_steps": 1},
        "validation": quiet | {"max_tokens": 1024},
        "checkpoint": quiet,
        "samples": {"max_new_tokens": 1},
        "workers": {"count": workers, "cpus": 1},
    }
    file.write_text(
        yaml.safe_dump({"name": "bench", "storage": str(file.parent), "model": model, "train": fixed | train})
    )
    return file


@dataclass(frozen=True)
class Launch:
    """One start of a run.

    Attributes:
        first_step_s: From the start of the process to the end of the first step.
        step_s: Median time of a step, the first ones left out.
        losses: Of every step.
    """

    first_step_s: float
    step_s: float
    losses: list[float]


def launch(command: Sequence[str], directory: Path) -> Launch:
    """Run a command that trains into a directory, and read its clock and the run's."""
    begun = time.time()
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run([sys.executable, *command], cwd=REPO, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 75):
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    records = train_records(directory)
    steps = [record for record in records if record["attempt"] == records[-1]["attempt"]]
    later = [line["step_s"] for line in steps[WARM_UP_STEPS:]]
    return Launch(
        first_step_s=steps[0]["time"] - begun,
        step_s=statistics.median(later) if later else float("nan"),
        losses=[line["loss"] for line in steps],
    )


def train_records(directory: Path) -> list[dict[str, Any]]:
    """The ``train`` records of all attempts of a run."""
    lines = map(json.loads, (directory / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "train"]
