"""Speed of a run: tokens per second, step time, and the share of the hardware's peak (MFU)."""

import re
import resource
import sys
import time

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

    Args:
        flops_per_token: Training FLOPs of a token, forward and backward.
        peak: Peak FLOP/s of all devices together, or None.
    """

    def __init__(self, flops_per_token: float, peak: float | None) -> None:
        self._flops_per_token, self._peak = flops_per_token, peak
        self._since, self._steps, self._tokens = time.perf_counter(), 0, 0

    def count(self, tokens: int) -> None:
        """Count one step."""
        self._steps += 1
        self._tokens += tokens

    def pause(self, seconds: float) -> None:
        """Leave time out that was not training (validation, saving)."""
        self._since += seconds

    def read(self) -> dict[str, float | None]:
        """``tokens_per_s``, ``step_s`` and ``mfu`` since the last reading, which this ends."""
        now = time.perf_counter()
        elapsed = max(now - self._since, 1e-9)
        speed = self._tokens / elapsed
        mfu = speed * self._flops_per_token / self._peak if self._peak else None
        step_s = elapsed / max(1, self._steps)
        self._since, self._steps, self._tokens = now, 0, 0
        return {"tokens_per_s": speed, "step_s": step_s, "mfu": mfu}
