"""Compiled training steps beside the same uncompiled; a script, since the checks of shapes in tests cannot be compiled.

Takes the backend of torch's compiler and the part to run, and prints what was found as JSON. ``aot_eager`` captures the
steps and their gradients without making kernels, in seconds and without a C++ compiler; ``inductor`` makes them.
"""

import functools
import json
import sys
import tempfile
from typing import Any

import torch
from ranks import MODEL, run_ranks, small_config, train_small
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from rayllm.model.kv_cache import KVCache
from rayllm.model.transformer import Transformer

ENGINES = [("torch", 0, 1), ("deepspeed", 0, 1), ("deepspeed", 1, 2), ("deepspeed", 2, 2)]


def build(compiled: bool, checkpointing: str = "none") -> Transformer:
    model = Transformer(MODEL.model_copy(update={"logit_softcap": 15.0}))
    model.init_weights(1)
    model.set_activation_checkpointing(checkpointing)
    if compiled:
        model.compile_training()
    return model


def rows(length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.randint(64, (2, length + 1), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1], ids[:, 1:], (torch.arange(length) // 9).expand(2, -1)


def step(model: Transformer, masked: bool, dtype: torch.dtype | None, length: int = 32) -> torch.Tensor:
    ids, labels, doc_ids = rows(length)
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        losses = model(ids, labels, doc_ids if masked else None)
    model.zero_grad()
    losses.mean().backward()
    return losses.detach()


def gaps() -> list[dict[str, Any]]:
    """How far losses and gradients of compiled steps are from the others, relative to their norm."""
    found = []
    for masked, checkpointing in ((False, "full"), (True, "none")):
        compiled, plain = build(True, checkpointing), build(False)
        for dtype in (None, torch.bfloat16):
            gap = float((step(compiled, masked, dtype) - step(plain, masked, dtype)).abs().max())
            pairs = zip(compiled.parameters(), plain.parameters(), strict=True)
            apart = max(float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs)
            found.append({"dtype": str(dtype), "masked": masked, "loss": gap, "gradient": apart})
    return found


def versions(counter: CompileCounterWithBackend) -> dict[str, int]:
    """Graphs that exist after each kind of work."""
    model, found = build(True), {}
    step(model, False, None)
    found["one length"] = counter.frame_count
    step(model, False, None)
    found["the same again"] = counter.frame_count
    with torch.no_grad():
        ids, labels, doc_ids = rows(20)
        model.eval()(ids, labels, doc_ids)
        model.logits(ids, cache=KVCache(model.config, 2, 40, device=torch.device("cpu"), dtype=torch.float32))
        model.train()
    found["validation and decoding"] = counter.frame_count
    for length in (16, 24, 16, 24, 32):
        step(model, False, None, length)
    found["three lengths"] = counter.frame_count
    return found


def engines() -> list[dict[str, Any]]:
    """Losses of a small run in every engine, compiled and not; and whether a resumed run equals a straight one."""
    found = []
    for kind, stage, world in ENGINES:
        losses = {}
        for compile in (True, False):
            config = small_config(compile=compile, max_steps=4)
            with tempfile.TemporaryDirectory() as directory:
                losses[compile] = list(
                    run_ranks(train_small, world, directory, kind, stage, config)[0]["losses"].values()
                )
        gap = max(abs(a - b) for a, b in zip(losses[True], losses[False], strict=True))
        found.append({"engine": f"{kind} {stage}", "gap": gap, "learnt": losses[True][0] - losses[True][-1]})
    return found


def resumed() -> dict[str, bool]:
    """Whether a compiled run that stopped and went on has the weights of one that did not, bit for bit."""
    config = small_config(compile=True)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        straight = run_ranks(train_small, 1, first, "deepspeed", 1, config)[0]
        run_ranks(train_small, 1, second, "deepspeed", 1, config, "fp32", 3)
        halves = run_ranks(train_small, 1, second, "deepspeed", 1, config)[0]
    same = all(torch.equal(halves["weights"][name], tensor) for name, tensor in straight["weights"].items())
    return {"went on": bool(halves["resumed"]), "same": same}


def kept() -> dict[str, int]:
    """How many kernels came from the directory of kept ones."""
    step(build(True), False, None)
    return {"hits": counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]}


def main() -> None:
    """Run one part."""
    backend, part = sys.argv[1:]
    torch.set_num_threads(1)
    counter = CompileCounterWithBackend(backend)
    torch.compile = functools.partial(torch.compile, backend=backend if part == "kept" else counter)
    parts = {"gaps": gaps, "versions": lambda: versions(counter), "engines": engines, "resumed": resumed, "kept": kept}
    sys.stdout.write(json.dumps({"found": parts[part](), "graphs": counter.frame_count}))


if __name__ == "__main__":
    main()
