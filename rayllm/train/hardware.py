"""Machines that a run can be planned for without having one: memory, speed, and how much of that speed is used."""

from dataclasses import dataclass

from rayllm.core.errors import ConfigError
from rayllm.train.metrics import PEAK_FLOPS

#: Memory of a device in bytes, by the part of its name that ``PEAK_FLOPS`` has; from the makers' data sheets.
MEMORY_BYTES = {
    "H200": 141e9,
    "H100": 80e9,
    "A100": 80e9,
    "L40S": 48e9,
    "L4": 24e9,
    "RTX 4090": 24e9,
    "A10": 24e9,
    "V100": 32e9,
    "T4": 16e9,
}
#: Share of the bf16 peak that training uses where nothing was measured. Source: Grattafiori et al. 2024, The Llama 3
#: Herd of Models, arXiv:2407.21783, table 4 (38 to 43 %).
ASSUMED_MFU = 0.4
#: Speed of products in a precision over that in bf16: fp8 as measured at width 2,048, where casts take a part of the
#: gain; fp32 by the data sheets of A100 and H100, without TF32.
SPEED = {"bf16": 1.0, "fp16": 1.0, "fp8": 1.25, "fp32": 1 / 15}


@dataclass(frozen=True)
class Device:
    """A kind of GPU.

    Attributes:
        name: As its maker calls it.
        memory_bytes: What it has.
        peak_flops: Dense bf16 FLOP/s.
    """

    name: str
    memory_bytes: int
    peak_flops: float

    def flops(self, precision: str, mfu: float) -> float:
        """FLOP/s that a run reaches, if it uses this share of the peak."""
        return self.peak_flops * SPEED[precision] * mfu


def find_device(name: str) -> Device:
    """A device by its name, in any case.

    Raises:
        ConfigError: If it is not in the table.
    """
    known = {key.lower().replace(" ", ""): key for key in MEMORY_BYTES}
    key = known.get(name.lower().replace(" ", "").replace("-", ""))
    if key is None:
        raise ConfigError(
            f"no device {name!r} is known", where="--device", fix=f"write one of {', '.join(known)}, or cpu"
        )
    return Device(key, int(MEMORY_BYTES[key]), PEAK_FLOPS[key])


def known_device(full_name: str) -> Device | None:
    """The device behind a name as CUDA tells it, such as ``NVIDIA H100 80GB HBM3``; None if it is not in the table."""
    parts = [key for key in MEMORY_BYTES if key in full_name]
    return find_device(max(parts, key=len)) if parts else None
