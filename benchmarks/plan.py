"""What ``rayllm plan`` predicts beside what real runs then take: peak memory and the time of a step, three runs.

Each run is planned with a probe, then really trained by Ray Train on random tokens, and its own records are read: the
peak memory of rank 0 and the median of the steps after the first ones. Aims: memory within 10 %, time within 25 %.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayllm.core.artifact import Artifact
from rayllm.core.config import ConfigModel
from rayllm.core.stage import Task, Work, run_task
from rayllm.data.shards.format import PackedIndex, dtype_for
from rayllm.data.shards.writer import ShardWriter
from rayllm.pipelines import ray_runtime
from rayllm.pipelines.plan.describe import Options, describe
from rayllm.pipelines.run_config import RunConfig, stage_config
from rayllm.pipelines.train.driver import run_with_ray
from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.codec import Codec
from rayllm.tokenizer.freeze import freeze

MEMORY_AIM, TIME_AIM = 0.10, 0.25
STEPS, SKIPPED_STEPS = 10, 3
#: Small enough for every machine; the vocabulary of a model may be larger than its tokenizer.
TOKENIZER_IDS = 512


@dataclass(frozen=True)
class Case:
    """A run to plan and to train."""

    name: str
    model: dict[str, Any]
    train: dict[str, Any]


def model(dim: int, layers: int, heads: int, kv_heads: int, ffn_dim: int, vocab_size: int) -> dict[str, Any]:
    return {
        "dim": dim,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "ffn_dim": ffn_dim,
        "vocab_size": vocab_size,
        "max_seq_len": 1024,
    }


CASES = [
    Case(
        "width 256, 2 layers, V 2,048: ZeRO 1, 2 ranks",
        model(256, 2, 4, 2, 640, 2048),
        {"seq_len": 256, "global_batch_tokens": 4096, "micro_batch_size": 8, "workers": {"count": 2}},
    ),
    Case(
        "width 384, 6 layers, V 32,768: ZeRO 2, 1 rank, bf16",
        model(384, 6, 6, 6, 1024, 32_768),
        {
            "seq_len": 512,
            "global_batch_tokens": 4096,
            "micro_batch_size": 4,
            "precision": "bf16",
            "engine": {"zero_stage": 2},
            "workers": {"count": 1},
        },
    ),
    Case(
        "width 768, 4 layers, V 16,384: ZeRO 3, 2 ranks, fp32",
        model(768, 4, 12, 12, 2048, 16_384),
        {
            "seq_len": 256,
            "global_batch_tokens": 2048,
            "micro_batch_size": 2,
            "precision": "fp32",
            "engine": {"zero_stage": 3},
            "workers": {"count": 2},
        },
    ),
]


class Nothing(ConfigModel):
    """No settings."""


def pack_random(root: Path) -> Artifact:
    """Packed documents of random tokens, with a tokenizer that has them; speed does not depend on what they say."""

    def fill(work: Work) -> dict[str, object]:
        texts = [f"{number} is a number, {number * 7} too.\n" for number in range(400)]
        data = train_bpe(iter(texts), vocab_size=TOKENIZER_IDS, min_frequency=1, max_digits=1, num_reserved=0)
        sha256 = freeze(data, work.directory)
        codec = Codec.load(work.directory)
        dtype = dtype_for(codec.vocab_size)
        rng = np.random.default_rng(1)
        splits: dict[str, dict[str, list[Any]]] = {"train": {}, "validation": {}}
        for split, count in (("train", 400_000), ("validation", 20_000)):
            tokens = rng.integers(0, codec.vocab_size, count)
            starts = np.arange(0, count, 200)
            tokens[tokens == codec.separator_id] = (codec.separator_id + 1) % codec.vocab_size
            tokens[starts] = codec.separator_id
            with ShardWriter(work.directory, f"{split}/text/00000", dtype) as writer:
                writer.append(tokens, starts, 3 * count)
            splits[split]["text"] = [writer.record]
        PackedIndex(
            dtype=dtype,
            vocab_size=codec.vocab_size,
            tokenizer_sha256=sha256,
            separator_id=codec.separator_id,
            splits=splits,
        ).write(work.directory)
        return {}

    return run_task(Task("pack", fill, Nothing()), str(root))[0]


def configure(case: Case, root: Path) -> RunConfig:
    settings = {
        "max_steps": STEPS,
        "checkpoint": {"every_steps": STEPS // 2},
        "validation": {"every_steps": STEPS, "max_tokens": 1024},
        "samples": {"max_new_tokens": 1},
        "logging": {"every_steps": 1, "tensorboard": False},
    }
    return RunConfig.model_validate(
        {
            "name": "plan",
            "storage": str(root),
            "sources": {"text": {"kind": "python_stdlib"}},
            "ray": {"object_store_bytes": 100_000_000},
            "model": case.model,
            "train": settings | case.train,
        }
    )


def train(config: RunConfig, packed: Artifact, directory: Path) -> tuple[float, int]:
    """Train; median seconds of a step and peak memory of rank 0, as the run itself recorded them."""
    run_with_ray(Work(stage_config("train", config), {"pack": packed}, str(directory), "benchmark"))
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    records = [record for record in lines if record["kind"] == "train"]
    steps = [record["step_s"] for record in records[SKIPPED_STEPS:]]
    return statistics.median(steps), max(record["memory_bytes"] for record in records)


def compare(case: Case, packed: Artifact, root: Path) -> bool:
    config = configure(case, root)
    plan = describe(config, Options("", None, None, None, TOKENIZER_IDS, probe=True))
    for note in plan["notes"]:
        print(f"  {note}")
    predicted_s, predicted_bytes = plan["time"]["step_s"][0], plan["memory"]["configured"]["total"]
    measured_s, measured_bytes = train(config, packed, root / "train")
    memory, time = predicted_bytes / measured_bytes - 1, predicted_s / measured_s - 1
    good = abs(memory) <= MEMORY_AIM and abs(time) <= TIME_AIM
    print(f"{case.name}, {plan['run']['precision']}")
    print(f"  memory {predicted_bytes / 1e6:8,.0f} MB planned {measured_bytes / 1e6:8,.0f} MB measured {memory:+7.1%}")
    print(f"  step   {predicted_s:8.3f} s  planned {measured_s:8.3f} s  measured {time:+7.1%}")
    terms = sorted(plan["memory"]["configured"]["device"].items(), key=lambda item: -item[1])
    print("  " + ", ".join(f"{term} {size / 1e6:,.0f}" for term, size in terms[:6]), flush=True)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="which of the three, from 0")
    chosen = parser.parse_args().cases
    logging.getLogger("rayllm").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        packed = pack_random(Path(scratch))
        good = [compare(CASES[number], packed, Path(scratch, str(number))) for number in chosen]
    ray_runtime.shutdown()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(f"within {MEMORY_AIM:.0%} of memory and {TIME_AIM:.0%} of time: {sum(good)} of {len(good)}")


if __name__ == "__main__":
    main()
