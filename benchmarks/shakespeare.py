"""Tiny Shakespeare by characters: a known result reproduced, then beaten at equal step time.

The known result is nanoGPT's for small machines (4 layers, 4 heads, 128 wide, block 64, batch 12, 2,000 steps: a
validation loss of about 1.886). Four runs from the same windows of text, in turn, a few steps each at a time:
``peers/gpt2_loop.py`` (that loop in plain PyTorch), our GPT-2 block with AdamW through our engine, and our best block
with Muon, once as short as it may be for the same loss and once as long as the same time allows. Step time is the sum
of the training steps alone. Losses are over the whole validation split, in nats and in bits per byte (a character is a
byte here). Aims: GPT-2 within 0.02 of the loop; 1.88 in at most a quarter of its step time; at most 1.66 at equal time.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
import torch
from peers.gpt2_loop import Loop, Settings, Sizes
from support.line_plot import Line, line_plot
from support.peers import REPO, describe_machine
from torch import Tensor, nn

from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.position_config import LearnedPositions
from rayllm.model.transformer import Transformer
from rayllm.optim.config import (
    AdamWConfig,
    CosineSchedule,
    GroupConfig,
    GroupsConfig,
    MuonConfig,
    OptimizerConfig,
    WSDSchedule,
)
from rayllm.optim.schedules import Schedule, rates_at
from rayllm.train.engine import TorchEngine

ROWS, LENGTH, PEER_STEPS, POINTS = 12, 64, 2000, 20
#: The published number is one estimate from twenty batches; how far such estimates scatter is measured with so many.
PUBLISHED, ESTIMATE_BATCHES, ESTIMATES = 1.886, 20, 30
SHAPE = {"dim": 128, "num_layers": 4, "num_heads": 4, "num_kv_heads": 4, "ffn_dim": 512, "max_seq_len": LENGTH}
#: nanoGPT's block: no biases, which transformers' GPT-2 has, hence not exportable.
GPT2 = ModelConfig.model_validate(
    SHAPE
    | {
        "positions": LearnedPositions(),
        "feed_forward": "gelu",
        "norm": "layernorm",
        "qk_norm": "none",
        "norm_eps": 1e-5,
        "exportable": False,
    }
)
#: The block of the depth dial, at this size.
BEST = ModelConfig.model_validate(
    SHAPE
    | {
        "feed_forward": "relu2",
        "norm": "rmsnorm_unweighted",
        "qk_norm": "unweighted",
        "embedding_norm": True,
        "tie_embeddings": False,
        "init_scale": "fan_in",
        "exportable": False,
    }
)
ADAMW = AdamWConfig(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, grad_clip=1.0)
ADAMW_GROUPS = ADAMW.model_copy(
    update={"groups": GroupsConfig(embedding=GroupConfig(weight_decay=0.1))}  # nanoGPT decays the tied embedding too
)
MUON = MuonConfig(
    lr=0.03,
    update_scale="spectral",
    betas=(0.8, 0.95),
    weight_decay=0.1,
    momentum_warmup_steps=100,
    groups=GroupsConfig(embedding=GroupConfig(lr_scale=10), head=GroupConfig(lr_scale=2 / 3, weight_decay=0.0)),
)
#: A longer run wants lower rates of the matrices.
MUON_LONG = MUON.model_copy(
    update={
        "lr": 0.02,
        "groups": GroupsConfig(embedding=GroupConfig(lr_scale=15), head=GroupConfig(lr_scale=1, weight_decay=0.0)),
    }
)
COSINE = CosineSchedule(warmup_frac=0.05, min_lr_frac=0.1)
DOWN = WSDSchedule(warmup_frac=0.02, decay_frac=0.6, decay_shape="linear", min_lr_frac=0.02)


class Text:
    """The text as ids of its characters: nine tenths to train on, one to validate."""

    def __init__(self, path: Path) -> None:
        characters = np.array(list(path.read_text(encoding="utf-8")))
        self.alphabet, ids = np.unique(characters, return_inverse=True)
        tokens = torch.from_numpy(ids.astype(np.int64))
        cut = int(0.9 * len(tokens))
        self.train, self.validation = tokens[:cut], tokens[cut:]

    def windows(self, steps: int, seed: int) -> Tensor:
        """Rows of all steps, drawn with replacement: (steps, rows, length + 1)."""
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(self.train) - LENGTH, (steps, ROWS, 1), generator=generator)
        return self.train[starts + torch.arange(LENGTH + 1)]

    def estimates(self, model: Callable[[Tensor], float], seed: int) -> list[float]:
        """Losses as nanoGPT estimates them: each over twenty batches at random places of the validation split."""
        generator = torch.Generator().manual_seed(seed)
        shape = (ESTIMATES, ESTIMATE_BATCHES, ROWS, 1)
        starts = torch.randint(len(self.validation) - LENGTH, shape, generator=generator)
        return [
            statistics.fmean(model(self.validation[rows + torch.arange(LENGTH + 1)]) for rows in batches)
            for batches in starts
        ]

    def validation_rows(self, every: int) -> Tensor:
        """Every so-manieth row of the validation split: (rows, length + 1)."""
        count = (len(self.validation) - 1) // LENGTH
        starts = torch.arange(0, count, every)[:, None] * LENGTH
        return self.validation[starts + torch.arange(LENGTH + 1)]


@dataclass
class Racer:
    """One run in the race.

    Attributes:
        name: What it is called.
        total: Its steps.
        model: To evaluate: (ids, targets) → losses or their mean.
        step: Takes step n on a window; all of its time counts.
        seconds: Step time so far.
        curve: (steps, seconds, validation loss on a part of the split).
    """

    name: str
    total: int
    model: nn.Module
    step: Callable[[int, Tensor], object]
    seconds: float = 0.0
    done: int = 0
    curve: list[tuple[int, float, float]] = field(default_factory=list)

    def advance(self, until: int, windows: Tensor) -> None:
        """Train up to a step."""
        for number in range(self.done, until):
            window = windows[number]
            start = time.perf_counter()
            self.step(number, window)
            self.seconds += time.perf_counter() - start
        self.done = until

    @torch.no_grad()
    def loss(self, rows: Tensor) -> float:
        """Mean loss over rows."""
        self.model.eval()
        sums = [float(self.model(part[:, :-1], part[:, 1:]).mean()) * len(part) for part in rows.split(256)]
        self.model.train()
        return sum(sums) / len(rows)


def peer(vocab_size: int, steps: int, seed: int) -> Racer:
    """The plain loop."""
    loop = Loop(Sizes(vocab_size, LENGTH, 4, 4, 128), Settings(max_steps=steps, warmup_steps=steps // 20), seed)
    return Racer("nanoGPT's loop", steps, loop.model, lambda n, window: loop.step(n, window[:, :-1], window[:, 1:]))


def ours(
    name: str, model: ModelConfig, optimizer: OptimizerConfig, schedule: Schedule, steps: int, precision: str, seed: int
) -> Racer:
    """A run on our engine."""
    module = Transformer(model)
    module.init_weights(seed)
    engine = TorchEngine(module, optimizer, precision, torch.device("cpu"), document_mask=False)
    no_documents = torch.zeros(ROWS, LENGTH, dtype=torch.int64)

    def step(number: int, window: Tensor) -> None:
        batch = Batch(window[:, :-1], window[:, 1:], no_documents, no_documents[:, 0])
        loss = engine.token_losses(batch).sum() / batch.labels.numel()
        engine.backward(loss)
        engine.step(rates_at(optimizer, schedule, number, steps))
        loss.item()

    return Racer(name, steps, module, step)


def race(arguments: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """All four runs of a seed, in turn, on one thread; a record of each."""
    torch.set_num_threads(1)
    text = Text(arguments.text)
    scale, vocab = arguments.scale, len(text.alphabet)
    steps = [max(POINTS, round(count * scale)) for count in (PEER_STEPS, PEER_STEPS, arguments.short, arguments.long)]
    gpt2, best = (config.with_vocab(vocab) for config in (unpadded(GPT2), unpadded(BEST)))
    racers = [
        peer(vocab, steps[0], seed),
        ours("our GPT-2 block, AdamW", gpt2, ADAMW_GROUPS, COSINE, steps[1], "fp32", seed),
        ours("our block, Muon, short", best, MUON, DOWN, steps[2], arguments.precision, seed),
        ours("our block, Muon, equal time", best, MUON_LONG, DOWN, steps[3], arguments.precision, seed),
    ]
    windows, some = text.windows(max(steps), seed), text.validation_rows(every=8)
    for point in range(1, POINTS + 1):
        for racer in racers if point % 2 else reversed(racers):
            for part in range(4):  # short turns, so that a busy machine slows all alike
                racer.advance(round(racer.total * (point - 1 + (part + 1) / 4) / POINTS), windows)
            racer.curve.append((racer.done, racer.seconds, racer.loss(some)))
    return [record(racer, racers[0].seconds, text, seed) for racer in racers]


def unpadded(config: ModelConfig) -> ModelConfig:
    """Exactly as many embeddings as characters, as the peer has."""
    return config.model_copy(update={"vocab_multiple": 1})


def record(racer: Racer, peer_seconds: float, text: Text, seed: int) -> dict[str, Any]:
    """Numbers of a finished run, printed too."""
    loss = racer.loss(text.validation_rows(every=1))
    found = {
        "name": racer.name,
        "seed": seed,
        "steps": racer.total,
        "parameters": sum(parameter.numel() for parameter in racer.model.parameters()),
        "loss": loss,
        "bits_per_byte": loss / math.log(2),
        "seconds": racer.seconds,
        "step_time": racer.seconds / peer_seconds,
        "curve": racer.curve,
        "estimates": text.estimates(racer.loss, seed),
    }
    print(
        f"  seed {seed}  {racer.name:28} {racer.total:5,} steps  {racer.seconds:7.1f} s  "
        f"{found['step_time']:5.2f} of the peer's time  loss {loss:.4f}  {found['bits_per_byte']:.4f} bits/byte",
        flush=True,
    )
    return found


def judge(records: list[dict[str, Any]]) -> None:
    """Medians over the seeds against the aims."""
    names = list(dict.fromkeys(item["name"] for item in records))
    of = {name: [item for item in records if item["name"] == name] for name in names}

    def median(index: int, key: str) -> float:
        return statistics.median(item[key] for item in of[names[index]])

    gap = statistics.median(b["loss"] - a["loss"] for a, b in zip(of[names[0]], of[names[1]], strict=True))
    for index in range(2):
        estimates = [value for item in of[names[index]] for value in item["estimates"]]
        mean, spread = statistics.fmean(estimates), statistics.stdev(estimates)
        as_low = sum(value <= PUBLISHED for value in estimates) / len(estimates)
        print(
            f"{names[index]}: loss {median(index, 'loss'):.4f}; estimated from {ESTIMATE_BATCHES} batches, as the "
            f"published {PUBLISHED} was: {mean:.3f} with a standard deviation of {spread:.3f}, {min(estimates):.3f} to "
            f"{max(estimates):.3f}, {as_low:.0%} as low as published"
        )
    print(f"our GPT-2 block from the peer's loop, seed by seed: {gap:+.4f} (aim: within 0.02)")
    print(f"short: loss {median(2, 'loss'):.4f} in {median(2, 'step_time'):.2f} of the time (aim: 1.88 in 0.25)")
    print(f"equal time: loss {median(3, 'loss'):.4f} in {median(3, 'step_time'):.2f} of the time (aim: 1.66 in 1)")


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Validation loss over step time, in the peer's; one line for each run and seed."""
    names = list(dict.fromkeys(item["name"] for item in records))
    peer_seconds = {item["seed"]: item["seconds"] for item in records if item["name"] == names[0]}
    lines = [
        Line(
            label=item["name"] if item["seed"] == records[0]["seed"] else "",
            colour=names.index(item["name"]),
            points=[(seconds / peer_seconds[item["seed"]], loss) for _, seconds, loss in item["curve"]],
        )
        for item in records
    ]
    title = "Tiny Shakespeare by characters: validation loss over step time"
    svg = line_plot(lines, title, "step time, in that of nanoGPT's 2,000 steps", "loss, nats", (1.5, 2.6))
    path.write_text(svg)


def main() -> None:
    """Race, judge, plot."""
    shared = Path(os.environ.get("RAYLLM_TEST_DATA", REPO.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=shared / "text" / "tinyshakespeare.txt")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, each on one thread")
    parser.add_argument("--short", type=int, default=350, help="steps of the run that only has to reach 1.88")
    parser.add_argument("--long", type=int, default=1600, help="steps of the run that may take the peer's time")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of the two runs with Muon")
    parser.add_argument("--scale", type=float, default=1.0, help="share of all steps, for a try")
    parser.add_argument("--plot", type=Path, help="write the curves here, as SVG")
    parser.add_argument("--json", type=Path, help="write all records here")
    arguments = parser.parse_args()
    if not arguments.text.is_file():
        parser.exit(0, f"skipped: {arguments.text} is not there (karpathy/char-rnn, data/tinyshakespeare/input.txt)\n")
    print(f"{describe_machine()}, {arguments.jobs} seeds at a time, Muon's runs in {arguments.precision}", flush=True)
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        records = [item for found in pool.map(partial(race, arguments), arguments.seeds) for item in found]
    judge(records)
    if arguments.json:
        arguments.json.write_text(json.dumps(records))
    if arguments.plot:
        plot(records, arguments.plot)


if __name__ == "__main__":
    main()
