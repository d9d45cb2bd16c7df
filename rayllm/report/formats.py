"""Numbers as people read them: a fixed number of digits, SI words, no exponents where a plain number does."""

import math

MISSING = "\u2013"
MINUS = "\u2212"
#: Between a number and its unit, which must not part at the end of a line.
SPACE = "\u00a0"


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with a fixed number of decimals, thousands separated; large ones with fewer."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "∞" if value > 0 else "not finite"
    if abs(value) >= 100:
        digits = min(digits, 1 if abs(value) < 1000 else 0)
    return f"{value:,.{digits}f}".replace("-", MINUS)


def significant(value: float | None, digits: int = 3) -> str:
    """A number with this many significant digits: ``0.0003``, ``3.21e-07``."""
    if value is None:
        return MISSING
    return f"{value:.{digits}g}".replace("-", MINUS, 1) if value < 0 else f"{value:.{digits}g}"


def count(value: float | None) -> str:
    """A count: exact below a million, then ``3.42 M``, ``1.20 B``, ``2.00 T``."""
    if value is None:
        return MISSING
    for factor, word in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= factor:
            return f"{_three_digits(value / factor)}{SPACE}{word}"
    return f"{value:,.0f}"


def data_size(value: float | None) -> str:
    """Bytes in decimal units: ``812 B``, ``1.42 MB``."""
    if value is None:
        return MISSING
    for factor, word in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{_three_digits(value / factor)}{SPACE}{word}"
    return f"{value:,.0f}{SPACE}B"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def duration(seconds: float | None) -> str:
    """A time span: ``0.4 s``, ``48 s``, ``3 min 12 s``, ``2 h 05 min``, ``3 d 4 h``."""
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{SPACE}min{SPACE}{whole % 60:02d}{SPACE}s"
    if whole < 86_400:
        return f"{whole // 3600}{SPACE}h{SPACE}{whole % 3600 // 60:02d}{SPACE}min"
    return f"{whole // 86_400}{SPACE}d{SPACE}{whole % 86_400 // 3600}{SPACE}h"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return MISSING if share is None else f"{fixed(round(100 * share, digits) + 0.0, digits)}{SPACE}%"


def change(before: float | None, after: float | None) -> str:
    """Relative change, with its sign."""
    if before is None or after is None or not before:
        return MISSING
    share = after / before - 1
    return f"{'+' if round(share, 3) > 0 else ''}{percent(share)}"


def join_words(words: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
