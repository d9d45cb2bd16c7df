"""All that a run remembers between steps besides weights and optimiser: position, counts, history, randomness."""

import json
import math
import random
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Losses kept for spike detection and for the check that a resumed run goes on where it was.
HISTORY = 128


@dataclass
class RunState:
    """Progress of a run; rank-independent, written to ``state.json``.

    Attributes:
        step: Optimizer steps taken, the position in the data.
        attempt: How many times the run was started.
        optimizer_steps: Steps that changed the weights (others had a non-finite gradient).
        skipped_in_a_row: Steps skipped since the last applied one.
        tokens: Supervised tokens so far.
        domain_tokens: The same by domain.
        losses: The last ``HISTORY`` finite training losses.
        validation: The last validation's metrics.
        precision: What the run computes in; a resumed run computes in the same.
        loss_scale: State of fp16's loss scaler, empty in other precisions.
        micro_batches: The ranks and the rows that ``train.micro_batch_size: auto`` chose for them; else empty.
        early_stopping: The best watched metric and the validations since; empty where nothing is watched.
        left_out: First and last step of each stretch whose batches a spike took out of the weights.
        rollbacks: How often the weights went back to a checkpoint.
        mixture: What an adaptive mixture remembers: its moves, shares, excess and validations; else empty.
    """

    step: int = 0
    attempt: int = 1
    optimizer_steps: int = 0
    skipped_in_a_row: int = 0
    tokens: int = 0
    domain_tokens: dict[str, int] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    validation: dict[str, float] = field(default_factory=dict)
    precision: str = "fp32"
    loss_scale: dict[str, float] = field(default_factory=dict)
    micro_batches: dict[str, Any] = field(default_factory=dict)
    early_stopping: dict[str, Any] = field(default_factory=dict)
    left_out: list[list[int]] = field(default_factory=list)
    rollbacks: int = 0
    mixture: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Take over the progress of a checkpoint; the attempt stays this one's, and so does what it does not know."""
        attempt = self.attempt
        for name in asdict(self).keys() & values.keys():
            setattr(self, name, values[name])
        self.attempt = attempt

    def advance(self, loss: float, domain_tokens: dict[str, int], *, applied: bool, harmless: bool = False) -> None:
        """Count one step; one skipped for a loss scale that was too large, or for a spike, is ``harmless``."""
        self.step += 1
        self.optimizer_steps += applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + (not (harmless and math.isfinite(loss)))
        self.tokens += sum(domain_tokens.values())
        for name, count in domain_tokens.items():
            self.domain_tokens[name] = self.domain_tokens.get(name, 0) + count
        if math.isfinite(loss):
            self.losses = [*self.losses, loss][-HISTORY:]


def rng_state() -> dict[str, Tensor]:
    """The state of every random generator of this process, as byte tensors."""
    python = json.dumps(random.getstate()).encode()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    numpy = json.dumps([name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)]).encode()
    found = {
        "rng.python": torch.frombuffer(bytearray(python), dtype=torch.uint8),
        "rng.numpy": torch.frombuffer(bytearray(numpy), dtype=torch.uint8),
        "rng.torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        found["rng.cuda"] = torch.cuda.get_rng_state()
    return found


def set_rng_state(found: dict[str, Tensor]) -> None:
    """Put back what ``rng_state`` gave."""
    version, internal, gauss = json.loads(bytes(found["rng.python"].tolist()))
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = json.loads(bytes(found["rng.numpy"].tolist()))
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(found["rng.torch"])
    if "rng.cuda" in found and torch.cuda.is_available():
        torch.cuda.set_rng_state(found["rng.cuda"])


def seed_everything(seed: int) -> None:
    """Seed every generator of this process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
