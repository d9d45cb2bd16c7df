"""Machines that a run can be planned for without having one: memory, speed, and what they can compute in."""

from dataclasses import dataclass

from rayllm.core.errors import ConfigError
from rayllm.train.metrics import PEAK_FLOPS, known_gpu

#: Memory of a device in bytes, its fp32 FLOP/s without tensor cores, and its compute capability, by the words of its
#: name that ``PEAK_FLOPS`` has; from the makers' data sheets.
DATA_SHEETS = {
    "GH200": (96e9, 67e12, (9, 0)),  # the gigabytes in its name are the CPU's
    "H200": (141e9, 67e12, (9, 0)),
    "H100": (80e9, 67e12, (9, 0)),
    "A100": (80e9, 19.5e12, (8, 0)),
    "L40S": (48e9, 91.6e12, (8, 9)),
    "L4": (24e9, 30.3e12, (8, 9)),
    "RTX 4090": (24e9, 82.6e12, (8, 9)),
    "A10G": (24e9, 31.5e12, (8, 6)),
    "A10": (24e9, 31.2e12, (8, 6)),
    "V100S": (32e9, 16.4e12, (7, 0)),
    "V100": (32e9, 15.7e12, (7, 0)),
    "T4": (16e9, 8.1e12, (7, 5)),
}
#: Share of the peak that training uses where nothing was measured. Source: Grattafiori et al. 2024, The Llama 3
#: Herd of Models, arXiv:2407.21783, table 4 (38 to 43 %).
ASSUMED_MFU = 0.4
#: Speed of products on tensor cores over that in bf16: fp8 as measured at width 2,048, where casts take a part of the
#: gain.
SPEED = {"bf16": 1.0, "fp16": 1.0, "fp8": 1.25}


@dataclass(frozen=True)
class Device:
    """A kind of GPU.

    Attributes:
        name: As its maker calls it.
        memory_bytes: What it has.
        peak_flops: Dense bf16 FLOP/s; of those without bf16, in fp16.
        fp32_flops: FLOP/s in fp32, without TF32.
        capability: Its compute capability.
    """

    name: str
    memory_bytes: int
    peak_flops: float
    fp32_flops: float
    capability: tuple[int, int]

    def flops(self, precision: str, mfu: float) -> float:
        """FLOP/s that a run reaches, if it uses this share of the peak."""
        return mfu * (self.fp32_flops if precision == "fp32" else self.peak_flops * SPEED[precision])


def find_device(name: str) -> Device:
    """A device by its name, in any case.

    Raises:
        ConfigError: If it is not in the table.
    """
    known = {key.lower().replace(" ", ""): key for key in DATA_SHEETS}
    key = known.get(name.lower().replace(" ", "").replace("-", ""))
    if key is None:
        raise ConfigError(
            f"no device {name!r} is known", where="--device", fix=f"write one of {', '.join(known)}, or cpu"
        )
    memory_bytes, fp32_flops, capability = DATA_SHEETS[key]
    return Device(key, int(memory_bytes), PEAK_FLOPS[key], fp32_flops, capability)


def known_device(full_name: str) -> Device | None:
    """The device behind a name as CUDA tells it, such as ``NVIDIA H100 80GB HBM3``; None if it is not in the table."""
    key = known_gpu(full_name)
    return None if key is None else find_device(key)
