"""Rotary positions: queries and keys are turned by angles that grow with the position."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Rotation:
    """Cosines and signed sines of the angles, float32, for each position and channel; see ``apply_rope``.

    The batch axis is there only when rows stand at different positions (decoding with a cache).
    """

    cos: Float[Tensor, "*batch seq head_dim"]
    sin: Float[Tensor, "*batch seq head_dim"]


class RotaryTable(nn.Module):
    """Looks up the rotation of each position.

    The table is computed in float32 on the device of the first call and kept outside parameters and buffers, so that
    neither ``module.to(bfloat16)`` rounds it nor a checkpoint holds it.

    Args:
        head_dim: Channels of a head, even.
        max_seq_len: Positions in the table.
        theta: Base of the wavelengths.

    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, section 3.2.2.
    """

    def __init__(self, head_dim: int, max_seq_len: int, theta: float) -> None:
        super().__init__()
        self.head_dim, self.max_seq_len, self.theta = head_dim, max_seq_len, theta
        self._table: Rotation | None = None

    def forward(self, seq_len: int, positions: Int[Tensor, "batch seq"] | None, device: torch.device) -> Rotation:
        """The rotation of the first ``seq_len`` positions, or of given ones.

        Args:
            seq_len: Length of the rows.
            positions: Where each token of each row stands; by default 0, 1, 2, and so on.
            device: Where the activations are.
        """
        if self._table is None or self._table.cos.device != device:
            # A table made while validating in inference mode could not be used in training afterwards.
            with torch.inference_mode(False):
                self._table = rotation_table(self.head_dim, self.max_seq_len, self.theta, device)
        table = self._table
        if positions is None:
            return Rotation(table.cos[:seq_len], table.sin[:seq_len])
        return Rotation(table.cos[positions], table.sin[positions])


def rotation_table(head_dim: int, seq_len: int, theta: float, device: torch.device) -> Rotation:
    """Cosines and sines of position times ``theta ** (-2i / head_dim)`` for channel pair ``i``, in float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float32, device=device), 1.0 / theta**exponents)
    cos, sin = angles.cos(), angles.sin()
    return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


def apply_rope(
    x: Float[Tensor, "batch seq heads head_dim"], rotation: Rotation
) -> Float[Tensor, "batch seq heads head_dim"]:
    """Turn channel pair (i, i + head_dim / 2) by the angle of its position: the half-split layout of Hugging Face.

    ``(a, b)`` becomes ``(a cos - b sin, b cos + a sin)``: each half times its cosine plus the other half times its
    signed sine. Computed in float32; the result has the dtype of ``x``.

    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, section 3.4.2.
    """
    cos, sin = rotation.cos.unsqueeze(-2), rotation.sin.unsqueeze(-2)  # the same angle for every head
    wide = x.float()
    other_half = wide.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(wide * cos, other_half, sin).to(x.dtype)
