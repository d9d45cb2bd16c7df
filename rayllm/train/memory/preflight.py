"""What a run needs more of than there is, in words; nothing is refused for it, since needs are estimated."""

#: The disk should have room for so many times what is expected.
DISK_MARGIN = 1.2


def shortage(what: str, needed: int, available: int, *, margin: float = 1.0) -> list[str]:
    """A line where something is short, else none.

    Args:
        what: What needs it, such as ``a rank of this run``.
        needed: Bytes.
        available: Bytes.
        margin: Factor on what is needed.
    """
    if needed * margin <= available:
        return []
    return [f"{what} needs about {needed / 1e9:.3g} GB, and there are {available / 1e9:.3g} GB"]
