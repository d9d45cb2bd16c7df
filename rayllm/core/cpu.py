"""What this machine's processor can do."""

import re


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware: in tiles (AMX), or twice as many in a vector as of float32."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            return finds_bf16(file.read())
    except OSError:
        return False


def finds_bf16(cpuinfo: str) -> bool:
    """Whether a ``/proc/cpuinfo`` names one of the instructions."""
    return re.search(r"\b(amx_bf16|avx512_bf16)\b", cpuinfo) is not None
