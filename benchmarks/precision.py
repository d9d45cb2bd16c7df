"""What each precision costs in loss: one model, one order of real text, every precision of `train.precision`.

A model of width 256 reads bytes of web text, so that its loss is bits per byte times ln 2. All runs begin with the same
weights and see the same rows; the last one is fp32 with other weights and rows, the yardstick for the gaps. fp8 is
emulated where the hardware has none, which changes its speed, not what it computes.
"""

import argparse
import gzip
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from support.peers import describe_machine

from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig, CosineSchedule
from rayllm.optim.schedules import rates_at
from rayllm.train.config import Fp8Config
from rayllm.train.engine import Engine, TorchEngine
from rayllm.train.fp8 import convert

MODEL = ModelConfig(
    vocab_size=256, real_vocab_size=256, dim=256, num_layers=2, num_heads=4, num_kv_heads=4, ffn_dim=640
)
OPTIMIZER, SCHEDULE = AdamWConfig(lr=2e-3), CosineSchedule(warmup_frac=0.1)
ROWS, SEQ_LEN, VALIDATION_ROWS = 8, 128, 256
#: Name, precision, recipe of fp8, seed.
RUNS = [
    ("fp32", "fp32", None, 1),
    ("bf16", "bf16", None, 1),
    ("fp16", "fp16", None, 1),
    ("fp8 tensorwise", "fp8", "tensorwise", 1),
    ("fp8 rowwise", "fp8", "rowwise", 1),
    ("fp32, another seed", "fp32", None, 2),
]


def read_text(path: Path, limit: int) -> np.ndarray:
    """Bytes of the documents, one after another, a zero before each."""
    found = bytearray()
    with gzip.open(path, "rt") as lines:
        for line in lines:
            found += b"\0" + json.loads(line)["text"].encode()
            if len(found) >= limit:
                break
    return np.frombuffer(bytes(found[:limit]), dtype=np.uint8)


def rows_at(text: np.ndarray, starts: np.ndarray) -> Batch:
    """Rows that begin at given bytes."""
    tokens = torch.from_numpy(text[starts[:, None] + np.arange(SEQ_LEN + 1)].astype(np.int64))
    doc_ids = (tokens[:, :-1] == 0).cumsum(1)
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), doc_ids, torch.zeros(len(starts)).long())


def make_engine(precision: str, recipe: str | None, seed: int, device: torch.device) -> Engine:
    """A new model in the plain engine."""
    model = Transformer(MODEL)
    model.init_weights(seed)
    if recipe is not None:
        emulate = device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0)
        convert(model, Fp8Config.model_validate({"recipe": recipe, "emulate": emulate}))
    return TorchEngine(model, OPTIMIZER, precision, device)


def train(engine: Engine, text: np.ndarray, steps: int, seed: int) -> tuple[float, int]:
    """Train; seconds of a median step, and steps that were skipped."""
    rng = np.random.default_rng(seed)
    times, skipped = [], 0
    for step in range(steps):
        start = time.perf_counter()
        batch = rows_at(text, rng.integers(0, len(text) - SEQ_LEN - 1, ROWS)).to(engine.device)
        engine.backward(engine.token_losses(batch).mean())
        outcome = engine.step(rates_at(OPTIMIZER, SCHEDULE, step, steps))
        skipped += not outcome.applied
        times.append(time.perf_counter() - start)
    return float(np.median(times)), skipped


@torch.no_grad()
def validate(engine: Engine, text: np.ndarray) -> float:
    """Mean loss in nats of rows that are spread evenly over text that was not trained on."""
    engine.module.eval()
    starts = np.linspace(0, len(text) - SEQ_LEN - 1, VALIDATION_ROWS).astype(np.int64)
    parts = [engine.token_losses(rows_at(text, part).to(engine.device)).mean() for part in np.split(starts, 8)]
    return float(torch.stack(parts).mean())


def main() -> None:
    """Run all, and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    default = Path(os.environ.get("RAYLLM_TEST_DATA", "../shared/data")) / "text" / "openwebtext.jsonl.gz"
    parser.add_argument("--text", type=Path, default=default, help="documents, one JSON object with `text` a line")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    text = read_text(arguments.text, 6_000_000)
    training, validation = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 :]
    print(describe_machine(), f"{device.type}, {arguments.threads} threads")
    print(f"width {MODEL.dim}, {MODEL.num_layers} layers, {arguments.steps} steps of {ROWS} x {SEQ_LEN} bytes")
    print("| precision | validation loss, nats | bits per byte | gap to fp32 | steps skipped | s a step |")
    print("|---|---|---|---|---|---|", flush=True)
    reference = math.nan
    for name, precision, recipe, seed in RUNS:
        engine = make_engine(precision, recipe, seed, device)
        seconds, skipped = train(engine, training, arguments.steps, seed)
        loss = validate(engine, validation)
        reference = loss if name == "fp32" else reference
        gap = (loss - reference) / math.log(2)
        cells = [name, f"{loss:.4f}", f"{loss / math.log(2):.4f}", f"{gap:+.4f}", str(skipped), f"{seconds:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
