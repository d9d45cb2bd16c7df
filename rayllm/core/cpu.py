"""What this machine's processor can do."""


def has_amx() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware tiles."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            return "amx_bf16" in file.read()
    except OSError:
        return False
