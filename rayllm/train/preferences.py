"""Preferences: from the token losses of pairs to the loss of DPO, and the same on held-out pairs.

In: token losses of rows of pairs, and in the batch what the reference model says of each reply. Out: the loss, and what
tells whether it does what it should: rewards, their margin, and how often the preferred reply has the higher one.

Source: Rafailov et al. 2023, Direct Preference Optimization, arXiv:2305.18290, equation 7; the reward of a reply is
``beta * (log p(reply) - log p_reference(reply))``, section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import logsigmoid

from rayllm.data.batches import Batch
from rayllm.data.preferences import halves, reply_log_probs
from rayllm.model.config import IGNORE_INDEX
from rayllm.train.objective_config import PREFERENCE_LOSS, PREFERENCE_MEASURES, DpoConfig


@dataclass(frozen=True)
class DirectPreference:
    """DPO's loss, summed over pairs; counted in pairs."""

    config: DpoConfig
    measures: tuple[str, ...] = PREFERENCE_MEASURES

    def sums(self, token_losses: Float[Tensor, "rows seq"], batch: Batch) -> Float64[Tensor, " 1+measures"]:
        """Sums over the pairs of the batch: the loss, then ``PREFERENCE_MEASURES``."""
        reference = batch.reference
        assert reference is not None, "rows of pairs carry what the reference says of them"
        log_probs = reply_log_probs(token_losses, batch, reference.shape[1])
        chosen, rejected = (self.config.beta * (log_probs - reference)).unflatten(1, (-1, 2)).unbind(-1)
        margins, smoothing = chosen - rejected, self.config.label_smoothing
        losses = -(1 - smoothing) * logsigmoid(margins) - smoothing * logsigmoid(-margins)
        likelier = _wins(log_probs[:, 0::2] - log_probs[:, 1::2])
        real = _real_pairs(batch, reference.shape[1])
        parts = (losses, margins, _wins(margins), chosen, rejected, likelier)
        return torch.stack([(part * real).sum() for part in parts])

    def count(self, batch: Batch) -> Float64[Tensor, " rows"]:
        """Pairs of each row."""
        assert batch.reference is not None, "rows of pairs carry what the reference says of them"
        return _real_pairs(batch, batch.reference.shape[1]).sum(dim=1).double()


def _wins(differences: Float64[Tensor, "rows pairs"]) -> Float64[Tensor, "rows pairs"]:
    """1 where a difference is positive, 0 where it is negative; a tie is half a win."""
    return (differences.sign() + 1) / 2


def _real_pairs(batch: Batch, count: int) -> Bool[Tensor, "rows pairs"]:
    """Which pairs there are: a row with fewer than the fullest is filled up with pairs of nothing."""
    learnt = (halves(batch, count) & (batch.labels != IGNORE_INDEX)[:, None, :]).any(dim=-1)
    return learnt[:, 0::2] & learnt[:, 1::2]


def preference_metrics(sums: Mapping[str, Float64[Tensor, " 2+measures"]]) -> dict[str, float]:
    """Fields of a ``validation`` record: loss and ``PREFERENCE_MEASURES`` of each domain, and their means over domains.

    Args:
        sums: For each domain sums over its pairs: their number, their loss, then ``PREFERENCE_MEASURES``.
    """
    found: dict[str, float] = {}
    for place, name in enumerate((PREFERENCE_LOSS, *PREFERENCE_MEASURES), 1):
        values = {domain: float(row[place] / row[0]) for domain, row in sums.items()}
        found |= {f"{name}/{domain}": value for domain, value in values.items()}
        found[f"mean_{name}"] = sum(values.values()) / len(values)
    return found
