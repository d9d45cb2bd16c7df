"""Speed of a run: tokens per second, step time, and the share of the hardware's peak (MFU)."""

import re
import resource
import sys
import time
from collections.abc import Callable

import torch

#: Dense bf16 peak in FLOP/s by words of the device's name; from the makers' data sheets, without sparsity.
PEAK_FLOPS = {
    "GH200": 989e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "A10G": 70e12,
    "A10": 125e12,
    "V100S": 130e12,
    "V100": 125e12,
    "T4": 65e12,
}


def known_gpu(full_name: str) -> str | None:
    """The key of ``PEAK_FLOPS`` for a name as CUDA tells it, such as ``NVIDIA H100 80GB HBM3``; None if there is none.

    Only whole words count: an L40 is no L4."""
    return next((key for key in PEAK_FLOPS if re.search(rf"\b{key}\b", full_name)), None)


def peak_flops(device: torch.device) -> float | None:
    """Peak of one device, or None where it is not known (CPUs among them)."""
    if device.type != "cuda":
        return None
    key = known_gpu(torch.cuda.get_device_name(device))
    return None if key is None else PEAK_FLOPS[key]


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held so far: on a GPU the tensors', on a CPU all of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    factor = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor


class Speedometer:
    """Mean speed since the last reading.

    What a device does is measured by whole rows, masked tokens too; ``tokens_per_s`` is how fast the run learns, in
    supervised tokens.

    Args:
        flops_per_token: Training FLOPs of a token, forward and backward, by the length of its row.
        peak: Peak FLOP/s of all devices together, or None.

    Attributes:
        row_tokens_per_s: Tokens of whole rows per second, of the last reading.
    """

    def __init__(self, flops_per_token: Callable[[int], float], peak: float | None) -> None:
        self._flops_per_token, self._peak = flops_per_token, peak
        self.row_tokens_per_s = 0.0
        self._begin(time.perf_counter())

    def _begin(self, now: float) -> None:
        self._since, self._steps, self._tokens, self._row_tokens, self._flops = now, 0, 0, 0, 0.0

    def count(self, tokens: int, rows: int, seq_len: int) -> None:
        """Count one step: the supervised tokens of its global batch, its rows, and their length."""
        self._steps += 1
        self._tokens += tokens
        self._row_tokens += rows * seq_len
        self._flops += rows * seq_len * self._flops_per_token(seq_len)

    def pause(self, seconds: float) -> None:
        """Leave time out that was not training (validation, saving)."""
        self._since += seconds

    def read(self) -> dict[str, float | None]:
        """``tokens_per_s``, ``step_s`` and ``mfu`` since the last reading, which this ends."""
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        self.row_tokens_per_s = self._row_tokens / elapsed
        mfu = self._flops / elapsed / self._peak if self._peak else None
        found = {"tokens_per_s": self._tokens / elapsed, "step_s": elapsed / max(1, self._steps), "mfu": mfu}
        self._begin(now)
        return found
