"""The model's speed and memory as ratios in one run: our training step against two plain loops, and the head's memory.

Peers (``peers/``): a GPT-2 as nanoGPT writes it, float32 and eager, and a block in the manner of nanochat, float32 and
compiled. Ours, on our plain engine, in what ``train.precision: auto`` chooses here, uncompiled and with
``train.compile: true``: the GPT-2, which is the first peer's model, and the depth dial's block, which is the second's
(its ends are not tied: at width 384 that is 1.5 times the parameters). All train with AdamW on the same rows, and a
peer's weights put into our model give its loss, which is checked before any time is believed. Sides take turns in one
process, with the environment of our workers; medians. Aims, in tokens a second: width 384 at least 2 times nanochat's
loop and 2.5 times nanoGPT's; width 768 at least 2 times and width 128 at least 1.25 times nanoGPT's, by the best of
ours. Head and loss at a vocabulary of 200,064: at most 15 % of the memory that plain PyTorch takes.
"""

import argparse
import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
import torch.nn.functional as F
from peers.gpt2_loop import GPT2, Loop, Settings, Sizes
from peers.nanochat_loop import Nanochat
from support.peers import alternate, describe_machine, median_ratio
from torch import Tensor, nn

from rayllm.core.config import load_config
from rayllm.data.batches import Batch
from rayllm.data.shards.cache import default_cache_dir
from rayllm.model.compiler import choose_compile, keep_kernels
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.model.layers.embeddings import LMHead
from rayllm.model.position_config import LearnedPositions
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig
from rayllm.optim.schedules import Rates
from rayllm.train.engine import TorchEngine
from rayllm.train.precision import resolve_precision

LR = 1e-4
BIG_VOCAB, HEAD_TOKENS, HEAD_DIM = 200_064, 2048, 128
#: Float32 weight, gradient and two moments.
BYTES_PER_PARAM = 16


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison, and the least ratio of tokens a second against each peer."""

    dim: int
    num_layers: int
    num_heads: int
    vocab_size: int
    length: int
    rows: int
    aims: dict[str, float]


CASES = (
    Case(128, 4, 4, 65, 64, 12, {"nanoGPT, eager": 1.25}),
    Case(384, 6, 6, 32_768, 512, 2, {"nanoGPT, eager": 2.5, "nanochat, compiled": 2.0}),
    Case(768, 4, 12, 32_768, 512, 2, {"nanoGPT, eager": 2.0}),
)


def shape(case: Case) -> dict[str, int]:
    """What our models of a case share."""
    heads = {"num_heads": case.num_heads, "num_kv_heads": case.num_heads}
    sizes = {"dim": case.dim, "num_layers": case.num_layers, "ffn_dim": 4 * case.dim, "max_seq_len": case.length}
    return sizes | heads | {"vocab_size": case.vocab_size, "vocab_multiple": 1}


def gpt2_config(case: Case) -> ModelConfig:
    """The GPT-2 loop's model as one of ours."""
    block = {"feed_forward": "gelu", "norm": "layernorm", "qk_norm": "none", "norm_eps": 1e-5, "exportable": False}
    return ModelConfig(**shape(case), **block, positions=LearnedPositions())


def best_config(case: Case) -> ModelConfig:
    """The dial's block, which is nanochat's."""
    block = {"feed_forward": "relu2", "norm": "rmsnorm_unweighted", "qk_norm": "unweighted", "embedding_norm": True}
    ends = {"tie_embeddings": False, "logit_softcap": 15.0, "exportable": False, "init_scale": "fan_in"}
    return ModelConfig(**shape(case), **block, **ends)


#: Ours, by the peer whose model each is.
MODELS = {"GPT-2": gpt2_config, "dial": best_config}


def gpt2_weights(peer: GPT2) -> dict[str, Tensor]:
    """A GPT-2's weights under our names."""
    found = {
        "model.embed_tokens.weight": peer.tokens.weight,
        "model.embed_positions.weight": peer.positions.weight,
        "model.norm.weight": peer.ln_f.weight,
        "lm_head.weight": peer.tokens.weight,
    }
    for index, block in enumerate(peer.blocks):
        found |= {
            f"model.layers.{index}.{ours}.weight": block.get_submodule(theirs).weight
            for ours, theirs in (
                ("input_layernorm", "ln_1"),
                ("self_attn.qkv_proj", "qkv"),
                ("self_attn.o_proj", "attn_out"),
                ("post_attention_layernorm", "ln_2"),
                ("mlp.up_proj", "up"),
                ("mlp.down_proj", "mlp_out"),
            )
        }
    return found


def nanochat_weights(peer: Nanochat) -> dict[str, Tensor]:
    """A nanochat block's weights under our names."""
    found: dict[str, Tensor] = {"model.embed_tokens.weight": peer.tokens.weight, "lm_head.weight": peer.head.weight}
    weights = peer.state_dict(keep_vars=True)
    for index in range(len(peer.blocks)):
        theirs, ours = f"blocks.{index}", f"model.layers.{index}"
        found |= {
            f"{ours}.self_attn.qkv_proj.weight": torch.cat([weights[f"{theirs}.{part}.weight"] for part in "qkv"]),
            f"{ours}.self_attn.o_proj.weight": weights[f"{theirs}.out.weight"],
            f"{ours}.mlp.up_proj.weight": weights[f"{theirs}.up.weight"],
            f"{ours}.mlp.down_proj.weight": weights[f"{theirs}.down.weight"],
        }
    return found


@torch.no_grad()
def check_same(config: ModelConfig, weights: dict[str, Tensor], peer: nn.Module, ids: Tensor, targets: Tensor) -> None:
    """Believe no time of a peer that does other work than we do."""
    model = Transformer(config)
    model.load_state_dict(weights)
    ours, theirs = float(model(ids, targets).mean()), float(peer(ids, targets))
    assert abs(ours - theirs) < 2e-3, f"with the same weights the losses are {ours:.5f} and {theirs:.5f}"


def our_step(
    config: ModelConfig, ids: Tensor, targets: Tensor, precision: str, *, compiled: bool
) -> Callable[[], float]:
    """Our step with a model."""
    device = torch.device("cpu")
    model = Transformer(config)
    model.init_weights(0)
    if compiled:
        model.compile_training()
    engine = TorchEngine(model, AdamWConfig(lr=LR), precision, device, document_mask=False)
    zeros = torch.zeros_like(ids)
    batch = Batch(ids, targets, zeros, zeros[:, 0])

    def step() -> float:
        start = time.perf_counter()
        loss = engine.token_losses(batch).sum() / targets.numel()
        engine.backward(loss)
        engine.step(Rates(lr=LR))
        loss.item()
        return time.perf_counter() - start

    return step


def gpt2_step(case: Case, ids: Tensor, targets: Tensor) -> Callable[[], float]:
    """The GPT-2 loop's step, checked."""
    loop = Loop(Sizes(case.vocab_size, case.length, case.num_layers, case.num_heads, case.dim), Settings(lr=LR), 0)
    check_same(gpt2_config(case), gpt2_weights(loop.model), loop.model, ids, targets)

    def step() -> float:
        start = time.perf_counter()
        loop.step(500, ids, targets)
        return time.perf_counter() - start

    return step


def nanochat_step(case: Case, ids: Tensor, targets: Tensor) -> Callable[[], float]:
    """The compiled loop's step, checked."""
    torch.manual_seed(0)
    model = Nanochat(case.vocab_size, case.length, case.num_layers, case.num_heads, case.dim)
    check_same(best_config(case), nanochat_weights(model), model, ids, targets)
    compiled = torch.compile(model, dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> float:
        start = time.perf_counter()
        loss = compiled(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        return time.perf_counter() - start

    return step


PEERS = {"nanoGPT, eager": gpt2_step, "nanochat, compiled": nanochat_step}


def compare(case: Case, rounds: int) -> None:
    """Print the ratios of a case."""
    tokens = torch.randint(case.vocab_size, (case.rows, case.length + 1), generator=torch.Generator().manual_seed(0))
    ids, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    precision = resolve_precision("auto", case.dim, torch.device("cpu"))
    ours = {
        f"{name}, {precision}{', compiled' if compiled else ''}": our_step(
            config(case), ids, targets, precision, compiled=compiled
        )
        for name, config in MODELS.items()
        for compiled in (False, True)
    }
    sides = [*ours.values(), *(PEERS[name](case, ids, targets) for name in case.aims)]
    for side in sides:
        side()
        side()
    gc.collect()
    times = alternate(sides, rounds * (5 if case.dim < 256 else 1))
    mine, peers = dict(zip(ours, times, strict=False)), dict(zip(case.aims, times[len(ours) :], strict=True))
    print(f"  width {case.dim}, {case.num_layers} layers, V {case.vocab_size:,}, T {case.length}")
    for name, theirs in peers.items():
        print(f"    {name:30} {ids.numel() / statistics.median(theirs):9,.0f} tokens/s")
    for kind, times_of_kind in mine.items():
        ratios = ", ".join(
            f"{median_ratio(theirs, times_of_kind):.2f} times {name.split(',')[0]} (aim {case.aims[name]:g})"
            for name, theirs in peers.items()
            if not (kind.startswith("GPT-2") and name.startswith("nanochat"))  # another model
        )
        print(f"    ours: {kind:24} {ids.numel() / statistics.median(times_of_kind):9,.0f} tokens/s; {ratios}")


def head_config() -> ModelConfig:
    """Head and loss as they are by default at a large vocabulary."""
    return ModelConfig(vocab_size=BIG_VOCAB, dim=HEAD_DIM, num_heads=1, num_kv_heads=1, tie_embeddings=False)


def peak_of_head(kind: str) -> int:
    """Peak memory of one forward and backward of head and loss in a process of its own, in bytes; ``idle``: of none."""
    head = LMHead(head_config())
    head.weight.grad = torch.ones_like(head.weight)
    hidden = torch.randn(1, HEAD_TOKENS, HEAD_DIM, requires_grad=True)
    labels = torch.randint(BIG_VOCAB, (1, HEAD_TOKENS))
    if kind == "chunked":
        head(hidden, labels).mean().backward()
    elif kind == "plain":
        F.cross_entropy(F.linear(hidden, head.weight)[0], labels[0]).backward()
    # Not getrusage: what it calls a process's peak begins with that of the process that started it.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def head_memory() -> None:
    """Print the memory of the loss in chunks against plain PyTorch, all logits at once."""
    peaks = []
    for kind in ("idle", "chunked", "plain"):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            peaks.append(pool.submit(peak_of_head, kind).result())
    idle, chunked, whole = peaks
    print(
        f"head and loss at V {BIG_VOCAB:,}, {HEAD_TOKENS:,} tokens, beyond weights and gradients: "
        f"{(whole - idle) / 1e6:,.0f} MB at once, {(chunked - idle) / 1e6:,.0f} MB in chunks of "
        f"{head_config().resolved_loss_chunk_tokens} tokens, the default: "
        f"{(chunked - idle) / (whole - idle):.1%} (aim: at most 15 %)"
    )


def embedding_table() -> None:
    """Print parameters and memory of a 200k vocabulary with and without factorised embeddings."""
    preset = load_config("configs/model/superbpe-270m.yaml", [], ModelConfig).with_vocab(200_000)
    print("parameters at a vocabulary of 200,000 (weights, gradients and moments in float32):")
    for tied in (True, False):
        for rank in (preset.embedding_rank, None):
            counts = count_parameters(preset.model_copy(update={"embedding_rank": rank, "tie_embeddings": tied}))
            ends = counts.embedding + counts.head + counts.projections
            kind = f"{'tied' if tied else 'untied'}, {f'rank {rank}' if rank else 'in full'}"
            millions = f"ends {ends / 1e6:6.1f} M, blocks {counts.non_embedding / 1e6:6.1f} M"
            memory = (
                f"{ends * BYTES_PER_PARAM / 1e9:5.2f} GB for the ends, {counts.total * BYTES_PER_PARAM / 1e9:.2f} GB"
            )
            print(f"  {kind:16}  {millions}, all {counts.total / 1e6:6.1f} M; {memory} for all")


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--widths", type=int, nargs="*", default=[case.dim for case in CASES])
    arguments = parser.parse_args()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
    keep_kernels(default_cache_dir() / "compiled")
    choose_compile(True, torch.device("cpu"))
    print(f"{describe_machine()}, {torch.get_num_threads()} threads, medians of {arguments.rounds} rounds or more")
    for case in CASES:
        if case.dim in arguments.widths:
            compare(case, arguments.rounds)
    head_memory()
    embedding_table()


if __name__ == "__main__":
    main()
