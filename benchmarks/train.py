"""Training speed as ratios in one run: our engine against a plain PyTorch loop, and bf16 against fp32.

Width 384, one worker, alternating step by step, medians; the losses are compared before any time is believed.
Aims: at most 1.3 times the step of the plain loop in fp32; bf16 at least 1.8 times fp32 on a CPU with AMX.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig
from rayllm.optim.schedules import Rates
from rayllm.train.deepspeed_engine import DeepSpeedEngine
from rayllm.train.engine import Engine
from rayllm.train.precision import has_amx

MODEL = ModelConfig(
    vocab_size=8192,
    real_vocab_size=8192,
    dim=384,
    num_layers=6,
    num_heads=6,
    num_kv_heads=6,
    ffn_dim=1024,
    max_seq_len=512,
)
ROWS, SEQ_LEN = 4, 512
ROUNDS = 7
LR = 1e-4


def make_batch() -> Batch:
    """Random tokens: speed does not depend on them."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 8192, (ROWS, SEQ_LEN + 1), generator=generator)
    doc_ids = torch.zeros(ROWS, SEQ_LEN, dtype=torch.int64)
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), doc_ids, torch.zeros(ROWS, dtype=torch.int64))


def new_model() -> Transformer:
    """The same weights each time."""
    model = Transformer(MODEL)
    model.init_weights(1)
    return model


def plain_step(precision: str, batch: Batch) -> Callable[[], float]:
    """A loop as anybody would write it: forward, backward, clip, fused AdamW."""
    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(batch.input_ids, batch.labels).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def engine_step(precision: str, zero_stage: int, batch: Batch) -> Callable[[], float]:
    """The same step through our engine on DeepSpeed."""
    engine: Engine = DeepSpeedEngine(
        new_model(),
        AdamWConfig(lr=LR),
        precision,
        torch.device("cpu"),
        zero_stage=zero_stage,
        micro_batch_size=ROWS,
        document_mask=False,
    )

    def step() -> float:
        loss = engine.token_losses(batch).sum() / batch.labels.numel()
        engine.backward(loss)
        engine.step(Rates(lr=LR))
        return loss.item()

    return step


def alternate(steps: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Median seconds of each step, taken in turns after one warm-up round."""
    losses = {name: step() for name, step in steps.items()}
    spread = max(losses.values()) - min(losses.values())
    assert spread < 1e-2, f"the steps do not compute the same: {losses}"
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    os.environ.setdefault("LOCAL_RANK", "0")
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory() as scratch:
        dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=0, world_size=1)
        batch = make_batch()
        medians = alternate(
            {
                "plain fp32": plain_step("fp32", batch),
                "plain bf16": plain_step("bf16", batch),
                "ZeRO-0 fp32": engine_step("fp32", 0, batch),
                "ZeRO-1 fp32": engine_step("fp32", 1, batch),
                "ZeRO-1 bf16": engine_step("bf16", 1, batch),
            }
        )
        dist.destroy_process_group()
    tokens = ROWS * SEQ_LEN
    print(f"width 384, 6 layers, {tokens} tokens a step, {torch.get_num_threads()} threads, medians of {ROUNDS}")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, AMX: {'yes' if has_amx() else 'no'}")
    for name, seconds in medians.items():
        print(f"  {name:12} {seconds:7.3f} s  {tokens / seconds:9,.0f} tokens/s")
    print(f"ZeRO-0 / plain, fp32 step:  {medians['ZeRO-0 fp32'] / medians['plain fp32']:.2f}  (aim: at most 1.30)")
    print(f"ZeRO-1 / plain, fp32 step:  {medians['ZeRO-1 fp32'] / medians['plain fp32']:.2f}  (aim: at most 1.30)")
    print(f"ZeRO-1 / plain, bf16 step:  {medians['ZeRO-1 bf16'] / medians['plain bf16']:.2f}")
    print(f"bf16 / fp32 speed, ZeRO-1:  {medians['ZeRO-1 fp32'] / medians['ZeRO-1 bf16']:.2f}  (aim: at least 1.80)")


if __name__ == "__main__":
    main()
