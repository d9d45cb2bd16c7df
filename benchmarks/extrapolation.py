"""Train short, test long: the loss on rows of twice and four times the length that a model was trained at.

Characters of Tiny Shakespeare; the same validation tokens count at each length, in longer and longer rows, so that a
model that can use what is far away may gain and one that is confused by it loses. Aim for ALiBi: at most 5 % above.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer

KINDS = ("alibi", "rope", "learned", "none")
TRAINING_BYTES, FACTORS = 1_000_000, (1, 2, 4)


def read_bytes(path: Path) -> torch.Tensor:
    """The text as ids."""
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).long()


def losses_by_length(kind: str, text: torch.Tensor, *, length: int, rows: int, steps: int, dim: int) -> list[float]:
    """Validation loss at ``FACTORS`` times the length of training."""
    config = ModelConfig.model_validate(
        {"vocab_size": 128, "dim": dim, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4, "ffn_dim": 3 * dim}
        | {"max_seq_len": max(FACTORS) * length, "positions": {"kind": kind}, "exportable": False}
    )
    model = Transformer(config)
    model.init_weights(1)
    _train(model, text[:TRAINING_BYTES], length, rows, steps)
    starts = [torch.arange(TRAINING_BYTES, len(text) - max(FACTORS) * length - 1, f * length) for f in FACTORS]
    with torch.no_grad():
        return [_loss(model, text, start, f * length) for start, f in zip(starts, FACTORS, strict=True)]


def _train(model: Transformer, text: torch.Tensor, length: int, rows: int, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95))
    generator = torch.Generator().manual_seed(7)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, (step + 1) / 20) * (1 - step / steps)
        starts = torch.randint(len(text) - length - 1, (rows,), generator=generator)
        model(*_rows(text, starts, length)).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _rows(text: torch.Tensor, starts: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = text[starts[:, None] + torch.arange(length + 1)]
    return tokens[:, :-1], tokens[:, 1:]


def _loss(model: Transformer, text: torch.Tensor, starts: torch.Tensor, length: int) -> float:
    parts = [model(*_rows(text, part, length)) for part in starts.split(64)]
    return float(torch.cat(parts).mean())


def table_line(kind: str, losses: Sequence[float]) -> str:
    """A line of the table: losses, and how far each is above the first."""
    return f"| {kind} | " + " | ".join(f"{loss:.3f} ({loss / losses[0] - 1:+.1%})" for loss in losses) + " |"


def main() -> None:
    """Train a model for each kind of positions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1000)
    default = Path(os.environ.get("RAYLLM_TEST_DATA", "../shared/data")) / "text" / "tinyshakespeare.txt"
    parser.add_argument("--text", type=Path, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = read_bytes(arguments.text)
    print(f"trained at {arguments.length} tokens for {arguments.steps} steps; loss at 1, 2 and 4 times that")
    print("| positions | L | 2L | 4L |\n|---|---|---|---|")
    for kind in KINDS:
        losses = losses_by_length(kind, text, length=arguments.length, rows=16, steps=arguments.steps, dim=64)
        print(table_line(kind, losses), flush=True)


if __name__ == "__main__":
    main()
