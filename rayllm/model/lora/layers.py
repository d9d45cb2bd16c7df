"""Linear layers whose weights stay as they are, with and without adapters beside them."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rayllm.model.lora.config import LoraConfig


class FrozenLinear(nn.Linear):
    """A linear layer that is not trained; its weights may be kept in the dtype that products are computed in.

    Under autocast this changes nothing: the product has the same operands. Elsewhere the product is computed in the
    weights' dtype and given back in the input's.

    Args:
        base: Whose weights it takes over.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight, self.bias = base.weight, base.bias
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, input: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """Multiply, and add the bias."""
        if torch.is_autocast_enabled(input.device.type):
            return super().forward(input)
        dtype = self.weight.dtype
        bias = None if self.bias is None else self.bias.to(dtype)  # `adapt` casts the matrices alone
        return F.linear(input.to(dtype), self.weight, bias).to(input.dtype)


class AdaptedLinear(FrozenLinear):
    """``W x + scale · B (A x)`` for matrices that may lie above each other in one weight.

    The adapters of one weight are fused like it: the A of its adapted matrices lie above each other in ``lora_A``, each
    of ``rank`` rows, their B in ``lora_B``, each with the rows of its matrix. One mask of dropout serves them all.

    With DoRA the rows of ``W + scale · B A`` are given the lengths in ``lora_magnitude``; those that they have count as
    constants in the gradient.

    Args:
        base: Whose weights stay as they are.
        matrices: All matrices in its weight, from the top, with their rows.
        chosen: Those that get adapters.
        lora: Rank, scale and the like.

    Attributes:
        enabled: Without, the layer gives what the base gives.

    Source: Hu et al. 2021, LoRA, arXiv:2106.09685, section 4.1; Liu et al. 2024, DoRA, arXiv:2402.09353, equation 5 and
    section 4.3.
    """

    def __init__(self, base: nn.Linear, matrices: Mapping[str, int], chosen: Sequence[str], lora: LoraConfig) -> None:
        super().__init__(base)
        self.matrices, self.chosen = dict(matrices), tuple(name for name in matrices if name in chosen)
        self.rank, self.scale, self.dropout = lora.rank, lora.scale, lora.dropout
        self.enabled = True
        self.rows = [self.matrices[name] for name in self.chosen]
        like = {"dtype": torch.float32, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.zeros(len(self.rows) * self.rank, base.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(sum(self.rows), self.rank, **like))
        self.lora_magnitude = nn.Parameter(torch.ones(sum(self.rows), **like)) if lora.dora else None

    def forward(self, input: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """The base's output and the adapters' one."""
        base = super().forward(input)
        if not self.enabled:
            return base
        dropped = F.dropout(input, self.dropout, self.training)
        lows = F.linear(dropped, self.lora_A).mul(self.scale).split(self.rank, dim=-1)
        deltas = [F.linear(low, b) for low, b in zip(lows, self.lora_B.split(self.rows), strict=True)]
        parts = self._apart(base, dim=-1)
        changed = [parts[name] for name in self.chosen]
        if self.lora_magnitude is None:
            changed = [part + delta for part, delta in zip(changed, deltas, strict=True)]
        else:
            changed = self._rescaled(changed, deltas)
        parts |= dict(zip(self.chosen, changed, strict=True))
        return changed[0] if len(parts) == 1 else torch.cat(list(parts.values()), dim=-1)

    @torch.no_grad()
    def merged(self, weight: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "outputs inputs"]:
        """A weight with the adapters in it.

        Args:
            weight: Of the base, float32.
        """
        parts = self._apart(weight, dim=0)
        for name, matrix in zip(self.chosen, self._updated(weight), strict=True):
            parts[name] = matrix
        if self.lora_magnitude is not None:
            for name, length in zip(self.chosen, self.lora_magnitude.split(self.rows), strict=True):
                parts[name] = parts[name] * (length / torch.linalg.vector_norm(parts[name], dim=1))[:, None]
        return torch.cat(list(parts.values()))

    @torch.no_grad()
    def take_lengths(self) -> None:
        """Set the magnitudes to what the rows have now, so that DoRA begins as the base."""
        if self.lora_magnitude is not None:
            self.lora_magnitude.copy_(torch.cat(self._lengths()))

    def adapters(self) -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
        """A, B and the magnitudes, where there are any, of each adapted matrix: views."""
        lengths = [None] * len(self.rows) if self.lora_magnitude is None else self.lora_magnitude.split(self.rows)
        pairs = zip(self.lora_A.split(self.rank), self.lora_B.split(self.rows), lengths, strict=True)
        return dict(zip(self.chosen, pairs, strict=True))

    def splits(self) -> dict[str, tuple[int, ...]]:
        """Rows of the matrices inside each of its adapter's parameters; see ``model.matrices``."""
        return {"lora_A": (self.rank,) * len(self.rows), "lora_B": tuple(self.rows)}

    def _apart(self, whole: Tensor, dim: int) -> dict[str, Tensor]:
        return dict(zip(self.matrices, whole.split(list(self.matrices.values()), dim=dim), strict=True))

    def _updated(self, weight: Tensor) -> list[Tensor]:
        """``W + scale · B A`` of each adapted matrix, float32."""
        parts = self._apart(weight, dim=0)
        return [parts[name].float() + self.scale * (b @ a) for name, (a, b, _) in self.adapters().items()]

    @torch.no_grad()
    def _lengths(self) -> list[Tensor]:
        """Of the rows of each adapted matrix as it is now."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return [torch.linalg.vector_norm(matrix, dim=1) for matrix in self._updated(self.weight)]

    def _rescaled(self, parts: Sequence[Tensor], deltas: Sequence[Tensor]) -> list[Tensor]:
        """What DoRA makes of the base's output; written so that factors of one change nothing."""
        assert self.lora_magnitude is not None
        biases: list[Tensor | float] = [0.0] * len(parts)
        if self.bias is not None:
            of_matrix = self._apart(self.bias, dim=0)
            biases = [of_matrix[name].to(parts[0].dtype) for name in self.chosen]
        found = []
        magnitudes = self.lora_magnitude.split(self.rows)
        for part, delta, bias, magnitude, length in zip(
            parts, deltas, biases, magnitudes, self._lengths(), strict=True
        ):
            factor = magnitude / length
            grown = (factor - 1).to(part.dtype) * (part - bias)
            found.append(part + grown + factor.to(part.dtype) * delta)
        return found
