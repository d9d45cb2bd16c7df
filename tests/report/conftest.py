"""A run that never was: artifacts of every stage with made-up but plausible numbers."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from rayllm.core import storage
from rayllm.core.artifact import Artifact
from rayllm.core.config import ConfigModel
from rayllm.core.stage import Task, Work, run_task
from rayllm.data.mixing.curriculum import build_plan
from rayllm.data.mixing.weights import MixtureConfig
from rayllm.data.shards.format import PackedIndex, ShardRecord
from rayllm.model.config import ModelConfig

Artifacts = dict[str, Artifact]
DOMAINS = ("english", "math", "code")
FINAL_BITS = {"english": 2.21, "math": 0.93, "code": 1.64}
FIRST_BITS = {"english": 3.42, "math": 4.87, "code": 4.15}
BIGRAM_BITS = {"english": 2.83, "math": 1.79, "code": 2.71}
BYTES_PER_TOKEN = {"english": 3.61, "math": 2.42, "code": 2.94}
SHARES = {"english": 0.4, "math": 0.25, "code": 0.35}
STEPS, SEQ_LEN, BATCH = 600, 256, 16_384

SAMPLES = {
    "english": (
        "The function returns a new array with the",
        " same shape and the values of the given axis.\n\nIf the ",
    ),
    "math": ("Tom has 12 apples and buys 7 more.", " 12 + 7 = 19. So Tom has 19 apples.\nAnswer: 19"),
    "code": (
        "def close(self):\n",
        '    """Close the <file> & flush."""\n    if self._file is not None:\n        return 1',
    ),
}


class FakeConfig(ConfigModel):
    """Any section of a run file."""

    name: str = Field(default="quickstart", description="Name.")
    settings: dict[str, Any] = Field(default={}, description="Settings.")


def train_lines(domains: tuple[str, ...] = DOMAINS) -> list[dict[str, Any]]:
    """Metrics of a run that was restarted once, at step 300."""
    rng = random.Random(1)
    plan = fake_plan(domains)
    lines: list[dict[str, Any]] = []
    for attempt, steps in ((1, range(0, 331)), (2, range(300, STEPS + 1))):
        for step in steps:
            head = {"step": step, "attempt": attempt, "time": 1_700_000_000.0 + step * 0.24 + attempt}
            tokens, done = step * BATCH, step / STEPS
            if step % 50 == 0 and not (attempt == 2 and step == 300):
                lines.append({"kind": "validation", **head, "tokens": tokens, **validation_fields(done, domains)})
            if step % 5 == 0 and step > (0 if attempt == 1 else 300):
                planned = {d: tokens * plan.stages[0].weights[i] / 1024 for i, d in enumerate(domains)}
                lines.append(
                    {
                        "kind": "train",
                        **head,
                        "loss": 2.45 + 5.8 * math.exp(-9 * done) + rng.gauss(0, 0.09),
                        "lr": 1e-3 * min(1, step / 40) * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2),
                        "grad_norm": None if step == 35 else 0.55 + 3 * math.exp(-12 * done) + abs(rng.gauss(0, 0.12)),
                        "update_ratio/matrices": 2e-3 * (1.1 - done),
                        "update_ratio/embedding": 4e-3 * (1.1 - done),
                        "tokens": tokens,
                        "tokens_per_s": 66_000 + rng.gauss(0, 2_500),
                        "step_s": 0.25,
                        "mfu": None,
                        "stage": 0,
                        "seq_len": SEQ_LEN,
                        **{f"tokens/{d}": round(count + rng.uniform(-256, 256)) for d, count in planned.items()},
                    }
                )
            if step and step % 200 == 0:
                samples = {d: {"domain": d, "prompt": SAMPLES[d][0], "text": SAMPLES[d][1]} for d in domains}
                lines += [{"kind": "sample", **head, **sample} for sample in samples.values()]
        if attempt == 1:
            event = {"kind": "event", "step": 331, "attempt": 1, "time": 1_700_000_090.0}
            lines.append({**event, "level": "warning", "message": "a worker died: rank 1 was killed (signal 9)"})
    return lines


def validation_fields(done: float, domains: tuple[str, ...]) -> dict[str, float]:
    bits = {d: FINAL_BITS[d] + (FIRST_BITS[d] - FINAL_BITS[d]) * math.exp(-7 * done) for d in domains}
    mean = sum(bits.values()) / len(bits)
    fields: dict[str, float] = {"mean_bits_per_byte": mean, "mean_loss": mean * 2}
    for domain, value in bits.items():
        loss = value * math.log(2) * BYTES_PER_TOKEN[domain]
        fields |= {f"loss/{domain}": loss, f"perplexity/{domain}": math.exp(loss)}
        fields |= {f"bits_per_byte/{domain}": value, f"surprise_ratio/{domain}": value / mean}
    return fields


def fake_plan(domains: tuple[str, ...] = DOMAINS):
    return build_plan(
        mixture=MixtureConfig(weights={domain: SHARES[domain] for domain in domains}),
        curriculum=[],
        seq_len=SEQ_LEN,
        global_batch_tokens=BATCH,
        domain_tokens={domain: 3_000_000 for domain in domains},
        seed=1,
        max_steps=STEPS,
    )


def fake_scores(checkpoint: str, domains: tuple[str, ...]) -> dict[str, Any]:
    def rows(done: float) -> dict[str, dict[str, Any]]:
        fields = validation_fields(done, domains)
        measures = ("loss", "perplexity", "bits_per_byte", "surprise_ratio")
        return {domain: {measure: fields[f"{measure}/{domain}"] for measure in measures} for domain in domains}

    after = rows(1.0)
    for domain in domains:
        after[domain] |= {"tokens": 65_536, "bytes": 190_000, "bigram_bits_per_byte": BIGRAM_BITS[domain]}
    samples = [
        {
            "domain": domain,
            "prompt": SAMPLES[domain][0],
            "text": SAMPLES[domain][1],
            "identified": domain if i else "code",
            "reference_identified": domain,
        }
        for domain in domains
        for i in range(10)
    ]
    correct = sum(sample["identified"] == sample["domain"] for sample in samples)
    by_domain = {
        d: {"correct": sum(s["identified"] == d == s["domain"] for s in samples), "total": 10} for d in domains
    }
    accuracy = {
        "correct": correct,
        "total": len(samples),
        "accuracy": correct / len(samples),
        "reference_accuracy": 1.0,
    }
    return {
        "checkpoint": checkpoint,
        "step": STEPS,
        "domains": after,
        "before": rows(0.0),
        "identification": {**accuracy, "by_domain": by_domain},
        "samples": samples,
        "mean_bits_per_byte": sum(row["bits_per_byte"] for row in after.values()) / len(after),
    }


def prepare(work: Work, domains: tuple[str, ...]) -> dict[str, Any]:
    drops = {"english": {"too_short": 4_212, "duplicate": 1_380}, "code": {"duplicate": 61, "in_validation": 3}}
    rows = {
        domain: {
            "train": {"documents": 20_000 + 1_000 * i, "bytes": 8_400_000 - 900_000 * i},
            "validation": {"documents": 210, "bytes": 96_000},
            "dropped": drops.get(domain, {}),
        }
        for i, domain in enumerate(domains)
    }
    return {"domains": rows}


def fit_tokenizer(work: Work, domains: tuple[str, ...]) -> dict[str, Any]:
    rows = {domain: {"bytes_per_token": BYTES_PER_TOKEN[domain], "tokens_per_word": 1.7} for domain in domains}
    return {"vocab_size": 4096, "sha256": "5f" * 32, "domains": rows}


def pack(work: Work, domains: tuple[str, ...]) -> dict[str, Any]:
    def shard(split: str, domain: str) -> ShardRecord:
        tokens = 3_000_000 if split == "train" else 70_000
        name = f"{split}/{domain}/00000"
        size = int(tokens * BYTES_PER_TOKEN[domain])
        return ShardRecord(name=name, tokens=tokens, documents=9, bytes=size, tokens_sha256="0", bounds_sha256="0")

    splits = {split: {domain: [shard(split, domain)] for domain in domains} for split in ("train", "validation")}
    index = PackedIndex(dtype="uint16", vocab_size=4096, tokenizer_sha256="5f" * 32, separator_id=0, splits=splits)
    index.write(work.directory)
    return {}


def train(work: Work, domains: tuple[str, ...]) -> dict[str, Any]:
    lines = "".join(json.dumps(line) + "\n" for line in train_lines(domains))
    storage.write_text(work.path("metrics.jsonl"), lines)
    storage.write_text(work.path("plan.json"), fake_plan(domains).to_json())
    machine = {
        "hostname": "laptop",
        "cpus": 2,
        "device": "cpu",
        "memory_bytes": 16_000_000_000,
        "workers": {"count": 2},
    }
    storage.write_text(work.path("environment.json"), json.dumps(machine))
    model = ModelConfig(vocab_size=4096, real_vocab_size=4096)
    storage.write_text(work.path("checkpoints/step-00000600-a2/model.json"), model.model_dump_json())
    return {}


def evaluate(work: Work, domains: tuple[str, ...]) -> dict[str, Any]:
    checkpoint = work.inputs["train"].file("checkpoints/step-00000600-a2")
    scores = fake_scores(checkpoint, domains)
    storage.write_text(work.path("scores.json"), json.dumps(scores))
    return {}


STAGES: tuple[Callable[..., dict[str, Any]], ...] = (prepare, fit_tokenizer, pack, train, evaluate)
WALLS = {"prepare": 21.4, "fit_tokenizer": 9.2, "pack": 12.8, "train": 158.3, "evaluate": 17.9}


def build_run(root: Path, domains: tuple[str, ...] = DOMAINS) -> Artifacts:
    """Publish the artifacts of a whole run, prepare to evaluate."""
    artifacts: Artifacts = {}
    for stage in STAGES:
        verb = stage.__name__
        task = Task(
            verb=verb,
            run=lambda work, stage=stage: stage(work, domains),
            config=FakeConfig(settings={verb: {"seed": 1, "weights": SHARES}}),
            inputs={"train": artifacts["train"]} if verb == "evaluate" else {},
        )
        artifact, _ = run_task(task, str(root))
        manifest = artifact.manifest.model_copy(update={"wall_s": WALLS[verb]})
        artifacts[verb] = Artifact(artifact.uri, manifest)
    return artifacts


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """Artifacts of a run over three domains."""
    return build_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Artifacts]:
    """Makes the artifacts of a run over given domains."""
    return lambda *domains: build_run(tmp_path, domains)
