"""The depth dial's initial weights and learning rates: do they hold as the model grows?

First a coordinate check (Yang et al. 2022, arXiv:2203.03466, appendix D.1): at widths 128 to 2048, with the dial's
rates, the root mean square of the residual stream, of each part's output and of the logits, before training and after
some steps. Aim: from the narrowest to the widest each stays within a factor of two; only the logits before training are
meant to fall with the root of the width. Then a sweep: two depths, each with the dial's learning rates times several
factors, on characters of Tiny Shakespeare. Aim: factor 1 is the best or within 0.02 of it at both. Batches are small
and runs short, so that it ends on two cores; ``--steps`` makes them longer.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
from shakespeare import Text
from support.peers import REPO, describe_machine
from torch import Tensor, nn

from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer
from rayllm.optim.config import MuonConfig, WSDSchedule
from rayllm.optim.schedules import Rates, rates_at
from rayllm.pipelines.depth import expand
from rayllm.train.engine import TorchEngine

WIDTHS, CHECK_STEPS = (128, 512, 2048), 4
DEPTHS, FACTORS, STEPS = (2, 4), (1 / 6, 1 / 3, 2 / 3, 1.0, 4 / 3, 8 / 3), 150
SCHEDULE = WSDSchedule(warmup_frac=0.02, decay_frac=0.6, decay_shape="linear", min_lr_frac=0.05)


def derived(depth: int, vocab_size: int, factor: float = 1.0, **sizes: int) -> tuple[ModelConfig, MuonConfig]:
    """Model and optimiser of a depth; further sizes are set as a run file would."""
    tree = expand({"depth": depth, "model": {"vocab_size": vocab_size, "vocab_multiple": 1} | sizes})
    settings: dict[str, Any] = tree["train"]["optimizer"]
    settings |= {"lr": settings["lr"] * factor, "momentum_warmup_steps": 50}
    return ModelConfig.model_validate(tree["model"]), MuonConfig.model_validate(settings)


def new_engine(model: ModelConfig, optimizer: MuonConfig, seed: int) -> tuple[Transformer, TorchEngine]:
    """A fresh run: the model, and the engine that trains it."""
    module = Transformer(model)
    module.init_weights(seed)
    return module, TorchEngine(module, optimizer, "fp32", torch.device("cpu"), document_mask=False)


def train_step(engine: TorchEngine, window: Tensor, rates: Rates) -> None:
    """One step on rows with the token that follows each."""
    ids, labels = window[:, :-1], window[:, 1:]
    zeros = torch.zeros_like(ids)
    engine.backward(engine.token_losses(Batch(ids, labels, zeros, zeros[:, 0])).sum() / labels.numel())
    engine.step(rates)


def scales(module: Transformer, ids: Tensor) -> dict[str, float]:
    """Root mean squares of what the parts of a model put out: attention, feed-forward, residual stream, logits."""
    found: dict[str, list[float]] = {}
    handles = []
    for name, part in module.named_modules():
        kind = {"self_attn": "attention", "mlp": "feed-forward"}.get(name.rpartition(".")[2])
        if name.rpartition(".")[0] == "model.layers":
            kind = "residual stream"
        if kind is not None:
            handles.append(part.register_forward_hook(_recorder(found.setdefault(kind, []))))
    with torch.no_grad():
        logits = module.logits(ids)
    for handle in handles:
        handle.remove()
    means = {kind: sum(values) / len(values) for kind, values in found.items()}
    return means | {"logits": float(logits.square().mean().sqrt())}


def _recorder(values: list[float]) -> Any:
    def record(_part: nn.Module, _inputs: object, output: Tensor) -> None:
        values.append(float(output.float().square().mean().sqrt()))

    return record


def coordinate_check(widths: list[int], steps: int, seed: int = 0) -> dict[int, list[dict[str, float]]]:
    """Scales at each width, before the first step and after the last: the dial's block, two layers, its rates."""
    generator = torch.Generator().manual_seed(seed)
    windows = torch.randint(256, (steps, 4, 65), generator=generator)
    found = {}
    for width in widths:
        model, optimizer = derived(2, 256, dim=width, head_dim=64, max_seq_len=64)
        module, engine = new_engine(model, optimizer, seed)
        before = scales(module, windows[0, :, :-1])
        for window in windows:
            train_step(engine, window, Rates(lr=optimizer.lr, momentum=optimizer.momentum_start))
        found[width] = [before, scales(module, windows[0, :, :-1])]
    return found


def show_check(widths: list[int], steps: int) -> None:
    """Print the check as a table."""
    found = coordinate_check(widths, steps)
    print(f"coordinate check: root mean squares at widths {', '.join(map(str, widths))}")
    for when, label in enumerate(("at first", f"after {steps} steps")):
        for kind in found[widths[0]][when]:
            values = [found[width][when][kind] for width in widths]
            shown = "  ".join(f"{value:8.4f}" for value in values)
            aim = "meant to fall" if kind == "logits" and when == 0 else "aim: below 2"
            print(f"  {label:14} {kind:16} {shown}   spread {max(values) / min(values):.2f} ({aim})", flush=True)


def final_loss(text: Text, depth: int, factor: float, steps: int, seed: int = 0) -> float:
    """Validation loss at the end of a short run with the dial's rates times a factor."""
    model, optimizer = derived(depth, len(text.alphabet), factor, head_dim=32, max_seq_len=64)
    module, engine = new_engine(model, optimizer, seed)
    for step, window in enumerate(text.windows(steps, seed)):
        train_step(engine, window, rates_at(optimizer, SCHEDULE, step, steps))
    rows = text.validation_rows(every=4)
    with torch.no_grad():
        parts = [float(module(part[:, :-1], part[:, 1:]).mean()) * len(part) for part in rows.split(256)]
    return sum(parts) / len(rows)


def show_sweep(text: Text, depths: list[int], factors: list[float], steps: int) -> None:
    """Print the sweep as a table."""
    print(f"sweep: validation loss after {steps} steps, by factor on the dial's learning rates")
    print("  depth  " + "".join(f"{factor:9.2f}" for factor in factors))
    for depth in depths:
        losses = [final_loss(text, depth, factor, steps) for factor in factors]
        best = min(losses)
        at_one = f", {losses[factors.index(1.0)] - best:+.4f} at 1" if 1.0 in factors else ""
        shown = "".join(f"{loss:9.4f}" for loss in losses)
        place = factors[losses.index(best)]
        print(f"  {depth:5}  {shown}   best at {place:.2f}{at_one} (aim: within 0.02)", flush=True)


def main() -> None:
    """Run both."""
    shared = Path(os.environ.get("RAYLLM_TEST_DATA", REPO.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=shared / "text" / "tinyshakespeare.txt")
    parser.add_argument("--widths", type=int, nargs="*", default=list(WIDTHS))
    parser.add_argument("--check-steps", type=int, default=CHECK_STEPS)
    parser.add_argument("--depths", type=int, nargs="*", default=list(DEPTHS))
    parser.add_argument("--factors", type=float, nargs="*", default=list(FACTORS))
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0))))
    print(describe_machine(), flush=True)
    if arguments.widths:
        show_check(arguments.widths, arguments.check_steps)
    if arguments.depths and not arguments.text.is_file():
        print(f"sweep skipped: {arguments.text} is not there (karpathy/char-rnn, data/tinyshakespeare/input.txt)")
    elif arguments.depths:
        show_sweep(Text(arguments.text), arguments.depths, arguments.factors, arguments.steps)


if __name__ == "__main__":
    main()
