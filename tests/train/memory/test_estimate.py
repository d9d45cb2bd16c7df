"""The formula against what the engines really allocate, stage by stage, and what it must obey."""

import time
from dataclasses import replace

import pytest
import torch
from ranks import run_ranks
from torch.profiler import ProfilerActivity, profile, record_function

from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.model.lora.adapt import adapt
from rayllm.model.lora.config import LoraConfig, count_adapters
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig
from rayllm.optim.schedules import Rates
from rayllm.train import deepspeed_engine
from rayllm.train.engine import TorchEngine
from rayllm.train.memory import estimate as module
from rayllm.train.memory.estimate import (
    BASE,
    KEPT,
    MASTER,
    MOMENTS,
    SNAPSHOT,
    WEIGHTS,
    ample,
    checkpoint_bytes,
    estimate,
)
from rayllm.train.memory.setting import Setting
from rayllm.train.memory.trace import Shape
from rayllm.train.precision import AUTOCAST_DTYPES

MODEL = ModelConfig(vocab_size=2048, dim=128, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=320, max_seq_len=256)
ROWS, SEQ_LEN, MICRO_BATCHES = 2, 128, 2
BUCKET = 100_000
#: Gloo's thread lets go of what it has reduced a moment after the ranks go on, on a busy machine a longer one. What it
#: is the last to let go of, the profiler never sees freed. That only adds to a peak: the lowest of several is taken.
LET_GO_S = 0.1
STEPS = 3
ROUNDS = 10


def setting(**changes) -> Setting:
    shape = Shape(ROWS, SEQ_LEN, "fp32", "none", document_mask=True)
    base = Setting(MODEL, "adamw", "deepspeed", 1, False, False, 2, "cpu", shape, MICRO_BATCHES, snapshot=False)
    return replace(base, **changes)


def allocated_by_steps(kind: str, stage: int, lora: LoraConfig | None = None, precision: str = "fp32") -> int:
    """The most bytes that torch's allocator has out in a later step of this rank, everything included."""
    deepspeed_engine.BUCKET_ELEMENTS = BUCKET
    device = torch.device("cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = Transformer(MODEL)
        model.init_weights(1)
        if lora:
            adapt(model, lora, AUTOCAST_DTYPES.get(precision))
        if kind == "torch":
            engine = TorchEngine(model, AdamWConfig(), precision, device)
        else:
            engine = deepspeed_engine.DeepSpeedEngine(
                model, AdamWConfig(), precision, device, zero_stage=stage, micro_batch_size=ROWS
            )
        ids = torch.randint(2048, (ROWS, SEQ_LEN))
        for _ in range(STEPS):
            with record_function("a step"):
                for _ in range(MICRO_BATCHES):
                    engine.backward(engine.token_losses(Batch(ids, ids, ids, ids[:, 0])).sum())
                    time.sleep(LET_GO_S)
                engine.step(Rates(lr=1e-4))
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return min(peaks(events)[1:])  # the first step has no moments yet


def peaks(events: list) -> list[int]:
    """The most bytes that are out in each step, of all that were allocated since the profile began."""
    held, most = 0, []
    for event in events:
        if event.name() == "a step":
            most.append(held)
        elif event.name() == "[memory]":
            held += event.nbytes()
            if most:
                most[-1] = max(most[-1], held)
    return most


@pytest.mark.parametrize(("kind", "stage"), [("torch", 0), *(("deepspeed", stage) for stage in range(4))])
def test_the_formula_is_what_an_engine_allocates(monkeypatch, kind: str, stage: int) -> None:
    """Never far below, or a run would be told that it fits; above only where two peaks are taken for one."""
    monkeypatch.setattr(module, "BUCKET_ELEMENTS", BUCKET)
    found = estimate(setting(engine=kind, stage=stage, device="cuda"), 0).device  # a GPU holds the whole bucket
    expected = sum(size for term, size in found.items() if term not in (BASE, KEPT))
    measured = []
    while len(measured) < ROUNDS and not (measured and expected / min(measured) > 0.95):
        measured += run_ranks(allocated_by_steps, 2, kind, stage)
    assert 0.95 < expected / min(measured) < 1.25


@pytest.mark.parametrize(
    ("kind", "stage", "precision"),
    [
        ("deepspeed", 1, "bf16"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [("torch", 0, "bf16"), ("torch", 0, "fp32"), ("deepspeed", 2, "bf16"), ("deepspeed", 3, "bf16")]
        ),
    ],
)
def test_the_formula_is_what_adapters_take(monkeypatch, kind: str, stage: int, precision: str) -> None:
    monkeypatch.setattr(module, "BUCKET_ELEMENTS", BUCKET)
    lora = LoraConfig(rank=8)
    measured = run_ranks(allocated_by_steps, 2, kind, stage, lora, precision)[0]
    shape = Shape(ROWS, SEQ_LEN, precision, "none", document_mask=True)
    found = estimate(setting(engine=kind, stage=stage, device="cuda", lora=lora, shape=shape), 0).device
    expected = sum(size for term, size in found.items() if term not in (BASE, KEPT))
    assert 0.9 < expected / measured < 1.3


def test_adapters_have_moments_and_a_frozen_base_only_weights() -> None:
    lora = LoraConfig(rank=8)
    numbers, counts = count_adapters(lora, MODEL), count_parameters(MODEL)
    found = estimate(setting(world_size=1, lora=lora, snapshot=True)).device
    assert found[MOMENTS] == 2 * 4 * numbers == 2 * found[MASTER]
    assert found[WEIGHTS] == 4 * (counts.total + numbers)
    assert found[SNAPSHOT] == 16 * numbers
    half = setting(lora=lora, shape=Shape(ROWS, SEQ_LEN, "bf16", "none", document_mask=True))
    assert estimate(half).device[WEIGHTS] == 4 * (counts.total + numbers) - 2 * counts.blocks_matmul
    assert estimate(setting(optimizer="muon", world_size=1, lora=lora)).device[MOMENTS] == 4 * numbers


def test_a_higher_stage_never_needs_more_of_the_state() -> None:
    state = (WEIGHTS, MASTER, MOMENTS)
    sizes = [sum(estimate(setting().at_stage(stage)).device.get(term, 0) for term in state) for stage in (1, 2, 3)]
    assert sizes == sorted(sizes, reverse=True)


def test_more_ranks_share_the_optimiser() -> None:
    four, one = (estimate(setting(world_size=size)).device[MOMENTS] for size in (4, 1))
    assert one == 2 * 4 * count_parameters(MODEL).total == 4 * four


def test_what_is_offloaded_lies_in_host_memory() -> None:
    found = estimate(setting(device="cuda", stage=3, offload_optimizer=True, offload_parameters=True))
    assert {WEIGHTS, MASTER, MOMENTS} <= found.host.keys()
    assert not {WEIGHTS, MASTER, MOMENTS} & found.device.keys()


def test_muon_keeps_one_moment_of_a_matrix() -> None:
    adamw, muon = (estimate(setting(optimizer=kind, world_size=1)).device[MOMENTS] for kind in ("adamw", "muon"))
    assert adamw - muon == 4 * count_parameters(MODEL).blocks_matmul


def test_a_checkpoint_in_the_making_counts() -> None:
    found = estimate(setting(snapshot=True, world_size=1))
    assert found.device[SNAPSHOT] == checkpoint_bytes(MODEL, "adamw") == 16 * count_parameters(MODEL).total


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("dim", [64, 256])
def test_the_quick_bound_is_above_the_estimate(rows: int, dim: int) -> None:
    model = MODEL.model_copy(update={"dim": dim, "head_dim": 32})
    one = setting(model=model, shape=Shape(rows, 256, "fp32", "none", document_mask=True), snapshot=True)
    assert ample(one) > estimate(one).total


def test_small_blocks_leave_gaps_that_the_process_keeps_and_large_ones_none() -> None:
    narrow = setting(device="cpu", engine="torch", stage=0)
    found = estimate(narrow).device
    held = sum(size for term, size in found.items() if term not in (BASE, KEPT, SNAPSHOT))
    assert found[KEPT] == module.KEPT_BYTES + int(module.KEPT_SHARE * held)
    wide = replace(
        narrow, model=narrow.model.model_copy(update={"vocab_size": module.MAPPED_BYTES // narrow.model.dim})
    )
    share = (estimate(wide).device[KEPT] - module.KEPT_BYTES) / sum(estimate(wide).device.values())
    assert share < 0.02
