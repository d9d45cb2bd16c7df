"""Where a token stands: rotary angles, slopes of linear biases, places within documents."""

import math
from dataclasses import dataclass
from functools import singledispatch

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rayllm.model.position_config import LinearScaling, Llama3Scaling, NTKScaling, RopePositions, YarnScaling


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
        config: Base and scaling of the wavelengths.

    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, section 3.2.2.
    """

    def __init__(self, head_dim: int, max_seq_len: int, config: RopePositions) -> None:
        super().__init__()
        self.head_dim, self.max_seq_len, self.config = head_dim, max_seq_len, config
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
                self._table = rotation_table(self.head_dim, self.max_seq_len, self.config, device)
        table = self._table
        if positions is None:
            return Rotation(table.cos[:seq_len], table.sin[:seq_len])
        return Rotation(table.cos[positions], table.sin[positions])


def rotation_table(head_dim: int, seq_len: int, config: RopePositions, device: torch.device) -> Rotation:
    """Cosines and sines of position times frequency for channel pair ``i``, in float32.

    The frequency is ``theta ** (-2i / head_dim)``, changed by the scaling.
    """
    frequencies = scale_frequencies(config.scaling, config.theta, head_dim, device)
    angles = torch.outer(torch.arange(seq_len, dtype=torch.float32, device=device), frequencies)
    sharpness = yarn_sharpness(config.scaling.factor) if isinstance(config.scaling, YarnScaling) else 1.0
    cos, sin = angles.cos() * sharpness, angles.sin() * sharpness
    return Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1))


def frequencies_of(theta: float, head_dim: int, device: torch.device) -> Float[Tensor, " half_dim"]:
    """Radians a token of each channel pair, float32."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    return 1.0 / theta**exponents


@singledispatch
def scale_frequencies(scaling: object, theta: float, head_dim: int, device: torch.device) -> Float[Tensor, " half_dim"]:
    """The frequencies of a scaling config (its class's docstring has the source); plain ones for None."""
    return frequencies_of(theta, head_dim, device)


@scale_frequencies.register
def _linear(scaling: LinearScaling, theta: float, head_dim: int, device: torch.device) -> Float[Tensor, " half_dim"]:
    return frequencies_of(theta, head_dim, device) / scaling.factor


@scale_frequencies.register
def _ntk(scaling: NTKScaling, theta: float, head_dim: int, device: torch.device) -> Float[Tensor, " half_dim"]:
    return frequencies_of(ntk_theta(theta, scaling.factor, head_dim), head_dim, device)


@scale_frequencies.register
def _yarn(scaling: YarnScaling, theta: float, head_dim: int, device: torch.device) -> Float[Tensor, " half_dim"]:
    def pair_of(turns: float) -> float:
        """The channel pair that turns so often within the original context."""
        return head_dim * math.log(scaling.original_max_seq_len / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_of(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_of(scaling.beta_slow)), head_dim - 1)
    plain = frequencies_of(theta, head_dim, device)
    pairs = torch.arange(head_dim // 2, dtype=torch.float32, device=device)
    interpolated = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / scaling.factor * interpolated + plain * (1 - interpolated)


@scale_frequencies.register
def _llama3(scaling: Llama3Scaling, theta: float, head_dim: int, device: torch.device) -> Float[Tensor, " half_dim"]:
    plain = frequencies_of(theta, head_dim, device)
    # Written as transformers writes it, so that the float32 frequencies are the same bits.
    turns = scaling.original_max_seq_len / (2 * math.pi / plain)
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def ntk_theta(theta: float, factor: float, head_dim: int) -> float:
    """The base with which the slowest of ``head_dim / 2`` wavelengths is ``factor`` times as long."""
    return theta * factor ** (head_dim / (head_dim - 2))


def yarn_sharpness(factor: float) -> float:
    """What queries and keys are both multiplied with: ``0.1 ln(factor) + 1``.

    Source: Peng et al. 2023, YaRN, arXiv:2309.00071, equation 22.
    """
    return 0.1 * math.log(factor) + 1.0


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


def alibi_slopes(num_heads: int, device: torch.device) -> Float[Tensor, " num_heads"]:
    """What each head takes from a score for each token of distance, float32.

    A geometric sequence from ``2 ** (-8 / n)`` for n heads, n a power of two; other numbers of heads take the sequence
    of the power below, then every other one of twice that power.

    Source: Press et al. 2022, Train Short, Test Long, arXiv:2108.12409, section 3 and the released code.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    slopes += [2 ** (-4 * (head + 1) / power) for head in range(0, 2 * (num_heads - power), 2)]
    return torch.tensor(slopes, dtype=torch.float32, device=device)


def places_in_documents(doc_ids: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """How many tokens of its document stand before each token in the row.

    Args:
        doc_ids: Document of each token; tokens of a document are next to each other.
    """
    index = torch.arange(doc_ids.shape[1], device=doc_ids.device).expand_as(doc_ids)
    begins = torch.ones_like(doc_ids, dtype=torch.bool)
    begins[:, 1:] = doc_ids[:, 1:] != doc_ids[:, :-1]
    return index - torch.where(begins, index, 0).cummax(dim=1).values
