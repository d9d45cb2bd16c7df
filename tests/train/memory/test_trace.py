"""What a trace on shapes says is what torch's allocator sees when the model really runs."""

import contextlib

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from rayllm.model.config import ModelConfig
from rayllm.model.layers.token_losses import Scratch
from rayllm.model.transformer import Transformer
from rayllm.train.memory.trace import GRADIENTS, Shape, trace

MODEL = ModelConfig(
    vocab_size=2048, dim=128, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=320, max_seq_len=256, norm="rmsnorm"
)


def allocated_at_the_peak(model: ModelConfig, shape: Shape) -> int:
    """Bytes above those of the weights, by the allocator's own records, of a second micro-batch of a step."""
    module = Transformer(model)
    module.init_weights(1)
    ids = torch.randint(2048, (shape.rows, shape.seq_len))
    dtype = torch.bfloat16 if shape.precision == "bf16" else None
    for parameter in module.parameters():
        parameter.register_post_accumulate_grad_hook(lambda part: setattr(part, "grad", None))

    def run() -> None:
        with torch.autocast("cpu", dtype=dtype) if dtype else contextlib.nullcontext():
            losses = module(ids, ids, ids if shape.document_mask else None)
        losses.sum().backward()

    run()
    module.lm_head.scratch = Scratch()  # what is kept for the next step counts as well
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("document_mask", [True, False])
def test_the_peak_is_that_of_a_real_micro_batch(precision: str, document_mask: bool) -> None:
    shape = Shape(3, 128, precision, "none", document_mask)
    expected = sum(trace(MODEL, shape, keep_gradients=False).values())
    assert allocated_at_the_peak(MODEL, shape) == pytest.approx(expected, rel=0.03)


def test_a_deep_model_is_extrapolated_from_shallow_ones() -> None:
    from rayllm.train.memory.trace import _trace

    shape = Shape(2, 64, "bf16", "none", document_mask=True)
    deep = MODEL.model_copy(update={"num_layers": 9})
    exact = sum(_trace(deep, shape, keep_gradients=False, lora=None).values())
    assert sum(trace(deep, shape, keep_gradients=False).values()) == pytest.approx(exact, rel=0.02)


def test_recomputing_keeps_less() -> None:
    deep = MODEL.model_copy(update={"num_layers": 12})
    none, full = (
        sum(trace(deep, Shape(8, 256, "fp32", kind, document_mask=True), keep_gradients=False).values())
        for kind in ("none", "full")
    )
    assert full < 0.5 * none


def test_gradients_that_are_kept_are_a_part_of_their_own() -> None:
    shape = Shape(1, 16, "fp32", "none", document_mask=False)
    kept = trace(MODEL, shape, keep_gradients=True)
    assert kept[GRADIENTS] > 0
    assert GRADIENTS not in trace(MODEL, shape, keep_gradients=False)


def test_a_model_of_any_size_is_traced_without_its_memory() -> None:
    huge = MODEL.model_copy(update={"dim": 8192, "num_layers": 80, "ffn_dim": 28_672, "vocab_size": 128_256})
    found = trace(huge, Shape(8, 256, "bf16", "none", document_mask=False), keep_gradients=False)
    assert sum(found.values()) > 100e9
