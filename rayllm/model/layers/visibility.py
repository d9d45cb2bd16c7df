"""Who may look at whom, and with what bias: one value that every block hands to attention.

In: where queries and keys stand, which document they are of, how far a layer sees, the slopes of linear biases. Out: a
``Visibility``. Plain causal attention needs no mask and keeps torch's fastest kernel; everything else is a mask.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Mask = Bool[Tensor, "#batch 1 queries keys"] | Float[Tensor, "#batch num_heads queries keys"]


@dataclass(frozen=True)
class Visibility:
    """Which keys each query sees: causal, or by an explicit mask; neither means all of them.

    Attributes:
        is_causal: Every token sees itself and all before it; there is no mask then.
        mask: True where a query sees a key; or what is added to its score, minus infinity where it does not.
    """

    is_causal: bool
    mask: Mask | None = None


@dataclass(frozen=True)
class Outlook:
    """What decides the visibility in a layer.

    Attributes:
        window: Tokens back that a query sees, itself included; None: all.
        slopes: Taken from a head's scores for each token of distance; None: nothing.
    """

    window: int | None = None
    slopes: Float[Tensor, " num_heads"] | None = None

    def over_rows(self, seq: int, doc_ids: Int[Tensor, "batch seq"] | None, device: torch.device) -> Visibility:
        """For whole rows, each token in its document.

        Args:
            seq: Tokens of a row.
            doc_ids: Document of each token; None: a row is one document.
            device: Where the activations are.
        """
        narrow = self.window is not None and self.window < seq
        if doc_ids is None and self.slopes is None and not narrow:
            return Visibility(is_causal=True)
        places = torch.arange(seq, device=device)
        seen = _seen(places[None], places, self.window)
        if doc_ids is not None:
            seen = seen & (doc_ids[:, None, :, None] == doc_ids[:, None, None, :])
        return self._visibility(seen, places[None], places)

    def over_cache(self, positions: Int[Tensor, "batch queries"], num_keys: int) -> Visibility:
        """For new tokens behind cached ones.

        Args:
            positions: Where each new token of each row stands.
            num_keys: Tokens that the longest row holds, new ones included.
        """
        places = torch.arange(num_keys, device=positions.device)
        return self._visibility(_seen(positions, places, self.window), positions, places)

    def _visibility(
        self,
        seen: Bool[Tensor, "#batch 1 queries keys"],
        positions: Int[Tensor, "rows queries"],
        places: Int[Tensor, " keys"],
    ) -> Visibility:
        if self.slopes is None:
            return Visibility(is_causal=False, mask=seen)
        distance = (positions[:, None, :, None] - places).float()
        bias = -self.slopes[:, None, None] * distance
        return Visibility(is_causal=False, mask=bias.masked_fill(~seen, -torch.inf))


def _seen(
    positions: Int[Tensor, "rows queries"], places: Int[Tensor, " keys"], window: int | None
) -> Bool[Tensor, "rows 1 queries keys"]:
    distance = positions[:, None, :, None] - places
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)
