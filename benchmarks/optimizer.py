"""Optimiser steps as ratios: Muon with AdamW against torch's and DeepSpeed's, AdamW with clipping against torch's.

One process, widths 128 and 384, gradients given; torch's Muon gets the fused tensors' matrices one by one, as we see
them. Aims: at least 1.5 times the speed of torch's Muon with AdamW, at least that of its fused AdamW with clipping.

ZeRO 2 on two ranks with one thread each: whole training steps on a batch so small that the optimiser is much of it, and
what remains of them when the same step with an optimiser that only subtracts gradients is taken off. Both sides
orthogonalise fused tensors whole there, since DeepSpeed cannot split them. DeepSpeed takes part twice: with
``ns_method: standard``, torch's iteration, in bf16, and with its default, ``gram``, in fp16 where the processor has it,
else in float32. Neither is compiled: ``TORCHDYNAMO_DISABLE=1`` holds for all sides, as in our workers, and turns off
the compilation that DeepSpeed asks for. Aim: at least 2 times the one with torch's iteration.

All sides come as they are by default: theirs iterate five times with Jordan's quintic, ours does four steps of Polar
Express. So ours takes part twice: as it is, and with ``ns_coefficients: jordan``, which does what theirs do. How
near both come to the orthogonal factor is printed first.

Weights are compared before any time is believed, ours with Jordan's quintic; sides alternate.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import torch
import torch.distributed as dist
from support.peers import alternate, describe_machine, median_ratio

from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.matrices import matrix_splits
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig, MuonConfig
from rayllm.optim.newton_schulz import METHODS, orthogonalize_
from rayllm.optim.optimizer import build_optimizer
from rayllm.optim.schedules import Rates
from rayllm.train.deepspeed_engine import (
    DeepSpeedEngine,
    _deepspeed_config,
    _zero_config,
    bucket_elements,
    import_deepspeed,
)
from rayllm.train.engine import arrange, whole_parameters

LR, MOMENTUM, DECAY = 1e-2, 0.95, 0.1
FFN = {128: 384, 384: 1024}
#: Settings of ours that make it do what torch and DeepSpeed do.
THEIR_ITERATION = {"ns_coefficients": "jordan"}
#: DeepSpeed's iterations, and what is aimed at.
NS_METHODS = {"standard": " (aim: at least 2)", "gram": ", DeepSpeed's default"}


def new_model(width: int, layers: int) -> Transformer:
    """The same weights each time."""
    sizes = {"dim": width, "num_layers": layers, "num_heads": width // 64, "num_kv_heads": width // 64}
    sizes |= {"vocab_size": 1024, "ffn_dim": FFN[width], "max_seq_len": 64}
    model = Transformer(ModelConfig.model_validate(sizes))
    model.init_weights(1)
    return model


def set_gradients(model: Transformer) -> None:
    """The same gradients each time: an optimiser may overwrite them."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def our_step(model: Transformer, config: AdamWConfig | MuonConfig, max_norm: float | None) -> Callable[[], float]:
    """A step of ours on a model of one process."""
    optimizer = build_optimizer(model, config)
    optimizer.max_norm = max_norm
    arrange(optimizer, whole_parameters(model, optimizer))
    optimizer.set_rates(Rates(lr=LR, momentum=MOMENTUM))

    def step() -> float:
        set_gradients(model)
        start = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - start

    return step


def torch_muon_step(model: Transformer) -> Callable[[], float]:
    """A step of torch's Muon on the separate matrices (views of the model's memory), and of its fused AdamW."""
    splits = matrix_splits(model.config)
    matrices: list[torch.nn.Parameter] = []
    sources: list[tuple[torch.nn.Parameter, int, list[int]]] = []
    rest = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or ".layers." not in name:
            rest.append(parameter)
            continue
        rows = list(next((split for end, split in splits.items() if name.endswith(end)), (parameter.shape[0],)))
        for index, part in enumerate(parameter.detach().split(rows)):
            matrices.append(torch.nn.Parameter(part))
            sources.append((parameter, index, rows))
    muon = torch.optim.Muon(matrices, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step() -> float:
        set_gradients(model)
        for matrix, (parameter, index, rows) in zip(matrices, sources, strict=True):
            assert parameter.grad is not None
            matrix.grad = parameter.grad.split(rows)[index]
        start = time.perf_counter()
        muon.step()
        adamw.step()
        return time.perf_counter() - start

    return step


def torch_adamw_step(model: Transformer) -> Callable[[], float]:
    """A step of torch's fused AdamW after its clipping; decay for the matrices inside the model only."""
    inside = [p for name, p in model.named_parameters() if p.ndim >= 2 and ".layers." in name]
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or ".layers." not in name]
    groups = [{"params": inside, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), fused=True)

    def step() -> float:
        set_gradients(model)
        start = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        return time.perf_counter() - start

    return step


def against_torch(width: int, layers: int, rounds: int) -> None:
    """Print the ratios of one width."""
    pairs = {
        "Muon + AdamW": (torch_muon_step, MuonConfig(weight_decay=DECAY), None, 1.5),
        "clipping + AdamW": (torch_adamw_step, AdamWConfig(weight_decay=DECAY), 1.0, 1.0),
    }
    for what, (torch_step, config, max_norm, aim) in pairs.items():
        iterates = isinstance(config, MuonConfig)
        settings = [config.model_copy(update=THEIR_ITERATION), config] if iterates else [config]
        theirs, *ours = (new_model(width, layers) for _ in range(1 + len(settings)))
        sides = [torch_step(theirs), *(our_step(*side, max_norm) for side in zip(ours, settings, strict=True))]
        for side in sides:
            side()
        check_equal(ours[0], theirs, f"{what} at width {width}")
        slow, *same, fast = alternate(sides, rounds)
        print(
            f"  {what}, width {width}: torch {_ms(slow)}, ours {_ms(fast)}, "
            f"{median_ratio(slow, fast):.2f} times (aim: at least {aim})",
            *(f"with their iteration {median_ratio(slow, times):.2f}" for times in same),
            sep="; ",
        )


def nearness(width: int) -> None:
    """Print how far both iterations end from the orthogonal factor of matrices like those of the model."""
    for kind in ("white noise", "singular values 1 / i"):
        gaps = {}
        for name, method in METHODS.items():
            exact = torch.randn(4, width, FFN[width], generator=torch.Generator().manual_seed(0))
            left, values, right = torch.linalg.svd(exact, full_matrices=False)
            if kind != "white noise":
                values = 1 / torch.arange(1, width + 1)
            found = (left * values.unsqueeze(-2) @ right).bfloat16()
            orthogonalize_(found, method)
            gaps[name] = float((found.float() - left @ right).norm() / (left @ right).norm())
        print(f"  {kind}, {width} x {FFN[width]}: " + ", ".join(f"{name} {gap:.3f}" for name, gap in gaps.items()))


def _ms(times: Sequence[float]) -> str:
    return f"{statistics.median(times) * 1e3:.1f} ms"


def check_equal(ours: torch.nn.Module, theirs: torch.nn.Module, what: str) -> None:
    """Believe no time of two steps that do not do the same; bf16 rounds a little differently in a stack."""
    start = new_model(ours.config.dim, ours.config.num_layers)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    gaps = {}
    for (name, mine), other, before in zip(
        ours.named_parameters(), theirs.parameters(), start.parameters(), strict=True
    ):
        gaps[name] = float((mine - other).detach().norm() / (other - before).detach().norm())
    worst = max(gaps, key=lambda name: gaps[name])
    assert gaps[worst] < 0.02, f"{what}: updates of {worst} differ by {gaps[worst]:.2%}"


def tiny_batch(rank: int) -> Batch:
    """Eight tokens."""
    tokens = torch.randint(0, 1024, (1, 9), generator=torch.Generator().manual_seed(rank))
    zeros = torch.zeros(1, 8, dtype=torch.int64)
    return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), zeros, zeros[:, 0])


def our_zero_step(
    model: Transformer,
    batch: Batch,
    ns_dtype: Literal["auto", "fp32"] = "auto",
    ns_coefficients: Literal["polar_express", "jordan"] = "polar_express",
) -> Callable[[], float]:
    """A training step through our engine at ZeRO 2."""
    config = MuonConfig(
        weight_decay=DECAY,
        update_scale="spectral",
        grad_clip=0.0,
        ns_dtype=ns_dtype,
        ns_coefficients=ns_coefficients,
    )
    with patch("rayllm.optim.optimizer.matrix_splits", return_value={}):
        engine = DeepSpeedEngine(
            model, config, "fp32", torch.device("cpu"), zero_stage=2, micro_batch_size=1, document_mask=False
        )

    def step() -> float:
        dist.barrier()
        start = time.perf_counter()
        engine.backward(engine.token_losses(batch).mean())
        engine.step(Rates(lr=LR, momentum=MOMENTUM))
        return time.perf_counter() - start

    return step


def their_zero_step(model: Transformer, batch: Batch, ns_method: str) -> Callable[[], float]:
    """The same with DeepSpeed's Muon and AdamW as its client optimizer, its iteration ``standard`` or ``gram``."""
    import_deepspeed(torch.device("cpu"))
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    matrices = [p for name, p in model.named_parameters() if p.ndim >= 2 and ".layers." in name]
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or ".layers." not in name]
    for parameter in model.parameters():
        parameter.use_muon = any(parameter is matrix for matrix in matrices)  # pyright: ignore[reportAttributeAccessIssue]
    muon = {"params": matrices, "use_muon": True, "lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
    adam = {"params": rest, "use_muon": False, "lr": LR, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
    optimizer = MuonWithAuxAdam([muon | {"ns_method": ns_method}, adam])
    settings = zero2_settings(model)
    settings["zero_optimization"]["reduce_scatter"] = False
    return _deepspeed_step(model, optimizer, settings, batch)


def bare_zero_step(model: Transformer, batch: Batch) -> Callable[[], float]:
    """The same with next to no optimiser: what every other side pays too."""
    import_deepspeed(torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, fused=True)
    return _deepspeed_step(model, optimizer, zero2_settings(model), batch)


def zero2_settings(model: Transformer) -> dict[str, Any]:
    """Our engine's settings of DeepSpeed, without clipping."""
    bucket = bucket_elements([parameter.numel() for parameter in model.parameters()], dist.get_world_size())
    return _deepspeed_config(0.0, "fp32", _zero_config(2, torch.device("cpu"), bucket), 1)


def _deepspeed_step(
    model: Transformer, optimizer: torch.optim.Optimizer, settings: dict[str, Any], batch: Batch
) -> Callable[[], float]:
    deepspeed = import_deepspeed(torch.device("cpu"))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    world = dist.get_world_size()

    def step() -> float:
        dist.barrier()
        start = time.perf_counter()
        engine.backward(engine(batch.input_ids, batch.labels, None).mean() * world, scale_wrt_gas=False)
        engine.step()
        return time.perf_counter() - start

    return step


def zero_rank(rank: int, width: int, layers: int, rounds: int, scratch: str) -> None:
    """One of two ranks."""
    torch.set_num_threads(1)
    import_deepspeed(torch.device("cpu"))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{scratch}/store", rank=rank, world_size=2)
    ours, batch = new_model(width, layers), tiny_batch(rank)
    our_zero_step(ours, batch, "fp32", "jordan")()
    for method in NS_METHODS:
        theirs = new_model(width, layers)
        # Few tokens give gradients of low rank, whose empty directions half precision fills with noise: so they are
        # compared in fp32, where both methods are the same iteration.
        with patch("deepspeed.runtime.zero.muon.original_muon.ns_compute_dtype", return_value=torch.float32):
            their_zero_step(theirs, batch, method)()
        check_equal(ours, theirs, f"ZeRO 2, width {width}, {method}")
    makers = [partial(their_zero_step, ns_method=method) for method in NS_METHODS]
    makers += [partial(our_zero_step, **THEIR_ITERATION), our_zero_step, bare_zero_step]
    sides = [make(new_model(width, layers), batch) for make in makers]
    for side in sides:
        side()
    *slow, same, fast, bare = alternate(sides, rounds)
    if rank == 0:
        print(f"  width {width}: ours {_ms(fast)}, without an optimiser {_ms(bare)}")
        for method, theirs in zip(NS_METHODS, slow, strict=True):
            alone, alike = (_beyond(theirs, bare) / _beyond(times, bare) for times in (fast, same))
            print(
                f"    DeepSpeed, {method}: {_ms(theirs)}, {median_ratio(theirs, fast):.2f} times; the optimisers "
                f"alone: {alone:.2f} times{NS_METHODS[method]}; with torch's iteration {alike:.2f}"
            )
    dist.barrier()
    dist.destroy_process_group()


def _beyond(times: Sequence[float], bare: Sequence[float]) -> float:
    return statistics.median(time - least for time, least in zip(times, bare, strict=True))


def against_deepspeed(width: int, layers: int, rounds: int) -> None:
    """Print the ratio of one width."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        ranks = [
            context.Process(target=zero_rank, args=(rank, width, layers, rounds, str(Path(scratch)))) for rank in (0, 1)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        assert all(process.exitcode == 0 for process in ranks), "a rank failed"


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(describe_machine())
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
    print("distance to the orthogonal factor, in bf16: four steps of ours, five of theirs")
    for width in FFN:
        nearness(width)
    print(f"one process, {torch.get_num_threads()} threads, {arguments.layers} layers, medians of {arguments.rounds}")
    for width in FFN:
        against_torch(width, arguments.layers, arguments.rounds)
    print("ZeRO 2, two ranks of one thread")
    for width in FFN:
        against_deepspeed(width, arguments.layers, arguments.rounds)


if __name__ == "__main__":
    main()
