"""Named seeds: one run seed, and an independent stream for every purpose that names itself."""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed for one purpose from the run's seed.

    Args:
        seed: The run's seed.
        *names: What the seed is for, such as ``"mixture", "code", epoch``. Order matters.

    Returns:
        A seed in ``[0, 2**63)``, the same on every machine and Python version.
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
