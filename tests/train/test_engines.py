"""The plain engine and ZeRO 0 to 3 train alike, at one worker and at two, and resume exactly.

In the default run each engine is crossed with each number of workers and with each precision, and workers with
precision at the stages that cut up least and most; the other cases of the product are slow.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from figures import Tell
from ranks import MODEL, build_engine, run_ranks, small_config, small_plan, streams, train_small

from rayllm.core.checkpoint import DIRECTORY, list_checkpoints
from rayllm.data.batches import BatchReader
from rayllm.model.transformer import Transformer
from rayllm.optim.schedules import lr_frac
from rayllm.train.config import CheckpointConfig
from rayllm.train.deepspeed_engine import BUCKET_ELEMENTS, bucket_elements
from rayllm.train.engine import TorchEngine

ENGINES = [("torch", 0), *(("deepspeed", stage) for stage in (0, 1, 2, 3))]
CASES = [
    *((*engine, world, precision) for engine in ENGINES for world, precision in ((2, "fp32"), (1, "bf16"))),
    *(("deepspeed", stage, 2, "bf16") for stage in (0, 3)),
]
REST = [
    (*engine, world, precision)
    for engine in ENGINES
    for world in (1, 2)
    for precision in ("fp32", "bf16")
    if (*engine, world, precision) not in CASES
]
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3}


def plain_losses(precision: str) -> list[float]:
    """A loop without any of the training package: what the engines must reproduce."""
    config = small_config()
    plan = small_plan(config)
    model = Transformer(MODEL)
    model.init_weights(1)
    decays = {name: p.ndim >= 2 and "embed_tokens" not in name for name, p in model.named_parameters()}
    groups = [
        {"params": [p for name, p in model.named_parameters() if decays[name]], "weight_decay": 0.1},
        {"params": [p for name, p in model.named_parameters() if not decays[name]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8)
    reader = BatchReader(list(streams().values()), plan, 0)
    losses = []
    for step in range(plan.total_steps):
        batch = next(reader.micro_batches(step, 1, 0, 10_000))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(batch.input_ids, batch.labels, batch.doc_ids).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * lr_frac(config.schedule, step, plan.total_steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def reference() -> dict[str, list[float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {precision: plain_losses(precision) for precision in TOLERANCE}
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize(
    ("kind", "stage", "world", "precision"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)
def test_losses_equal_a_plain_loop(
    kind: str, stage: int, world: int, precision: str, reference: dict[str, list[float]], tmp_path: Path, tell: Tell
) -> None:
    result = run_ranks(train_small, world, str(tmp_path), kind, stage, small_config(), precision)[0]
    found = [result["losses"][step] for step in range(1, 7)]
    gap = max(abs(a - b) for a, b in zip(found, reference[precision], strict=True))
    engine = f"{kind} {stage}" if kind == "deepspeed" else kind
    found_gap = {"largest_gap": f"{gap:.1e}", "allowed": f"{TOLERANCE[precision]:.0e}"}
    tell("losses of the engines against a plain loop", engine=engine, ranks=world, precision=precision, **found_gap)
    assert gap < TOLERANCE[precision], f"largest gap {gap:.2e}"


def same(left: dict[Any, torch.Tensor], right: dict[Any, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.fault("P10", "a loss is not finite", "the step changes nothing, on all ranks")
@pytest.mark.parametrize(("kind", "stage"), ENGINES)
def test_a_step_that_is_not_finite_is_skipped_on_all_ranks(
    kind: str, stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:3=nan")
    results = run_ranks(train_small, 2, str(tmp_path), kind, stage, small_config())
    for result in results:
        assert result["state"]["optimizer_steps"] == 5
        assert all(tensor.isfinite().all() for tensor in result["weights"].values())
    assert same(results[0]["weights"], results[1]["weights"])
    events = [record for record in results[0]["records"] if record["kind"] == "event"]
    assert [event["step"] for event in events] == [3]


@pytest.mark.fault("P10", "the loss of one rank is not finite", "the step changes nothing, on all ranks")
@pytest.mark.parametrize(("kind", "stage"), ENGINES)
def test_a_loss_of_one_rank_that_is_not_finite_skips_the_step_on_all(
    kind: str, stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only the loss is not finite, and the gradient is."""
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "rank1:2=nan,rank1:4=told_nan,step:6=told_inf")
    config = small_config(checkpoint=CheckpointConfig(every_steps=1, keep_last=6))
    results = run_ranks(train_small, 2, str(tmp_path), kind, stage, config)
    for result in results:
        assert result["state"]["optimizer_steps"] == 3
    assert same(results[0]["weights"], results[1]["weights"])
    events = [record for record in results[0]["records"] if record["kind"] == "event"]
    assert [event["step"] for event in events] == [2, 4, 6]
    assert all(event["message"].endswith("the step was skipped") for event in events)
    saved = [Path(ref.uri, "model.safetensors").read_bytes() for ref in list_checkpoints(f"{tmp_path}/{DIRECTORY}")]
    assert [saved[step] == saved[step - 1] for step in range(1, 6)] == [True, False, True, False, True]
    assert math.isfinite(results[0]["norms"][4])


def test_every_element_is_owned_once() -> None:
    for stage, owned in enumerate(zip(*run_ranks(_owned_ranges_of_each_stage, 2), strict=True)):
        counts: dict[tuple[str, str], torch.Tensor] = {}
        sizes = {name: tensor.numel() for name, tensor in Transformer(MODEL).named_parameters()}
        for ranges in owned:
            for param, kind, offset, length in ranges:
                seen = counts.setdefault((param, kind), torch.zeros(sizes[param]))
                seen[offset : offset + length] += 1
        assert set(counts) == {(name, kind) for name in sizes for kind in ("master", "exp_avg", "exp_avg_sq")}
        assert all((seen == 1).all() for seen in counts.values()), f"stage {stage}"


def _owned_ranges_of_each_stage() -> list[list[tuple[str, str, int, int]]]:
    return [_owned_ranges(stage) for stage in (0, 1, 2, 3)]


def _owned_ranges(stage: int) -> list[tuple[str, str, int, int]]:
    engine = build_engine("deepspeed", stage, small_config())
    return [(item.param, item.kind, item.offset, item.tensor.numel()) for item in engine.owned_slices()]


def test_without_the_document_mask_a_token_sees_the_document_before_it() -> None:
    batch = next(BatchReader(list(streams().values()), small_plan(small_config()), 0).micro_batches(0, 1, 0, 100))
    masked, open_ = (
        TorchEngine(_model(), small_config().optimizer, "fp32", torch.device("cpu"), document_mask=mask)
        for mask in (True, False)
    )
    first = batch.doc_ids == batch.doc_ids[:, :1]
    left, right = masked.token_losses(batch), open_.token_losses(batch)
    torch.testing.assert_close(left[first], right[first])
    assert not torch.allclose(left[~first], right[~first])


def _model() -> Transformer:
    model = Transformer(MODEL)
    model.init_weights(1)
    return model


@pytest.mark.parametrize(
    ("sizes", "world_size", "elements"),
    [([5, 3], 1, 8), ([5, 4], 1, 10), ([5, 3], 3, 10), ([5, 3], 4, 12), ([BUCKET_ELEMENTS, 1], 2, BUCKET_ELEMENTS)],
)
def test_a_bucket_holds_the_padded_model_and_is_even(sizes: list[int], world_size: int, elements: int) -> None:
    assert bucket_elements(sizes, world_size) == elements
