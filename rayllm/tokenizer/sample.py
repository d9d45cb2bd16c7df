"""Which texts a tokenizer learns from: a sample of a corpus, as large as asked for, whatever the corpus's size.

Each domain gets a budget of bytes and from it a rate: how many times, on average, each of its documents is taken. At a
rate below one a keyed coin decides for every document, so the sample spreads over the whole domain; above one, small
domains are repeated, so that the weights hold without making the other domains smaller.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from rayllm.core.errors import ConfigError
from rayllm.core.rng import derive_seed


def plan_budgets(available: Mapping[str, int], max_bytes: int, weights: Mapping[str, float] | None) -> dict[str, int]:
    """How many bytes of each domain to take.

    Args:
        available: Bytes of text of each domain.
        max_bytes: Bytes to take in all; never more than the domains hold together.
        weights: Relative weights of domains; those not named get nothing. None: as much of each as there is of it.

    Raises:
        ConfigError: If a weight names an unknown or empty domain, or no weight is positive.
    """
    total = min(max_bytes, sum(available.values()))
    shares = dict(available) if weights is None else {name: weights.get(name, 0.0) for name in available}
    unknown = sorted(set(weights or ()) - set(available))
    empty = sorted(name for name, share in shares.items() if share > 0 and not available[name])
    if unknown or empty or (weights is not None and sum(shares.values()) <= 0):
        names = ", ".join(unknown or empty)
        raise ConfigError(
            f"no text to learn from in {names}" if names else "no domain has a positive weight",
            where="fit_tokenizer.weights",
            why=f"the corpus has {', '.join(f'{name} ({size:,} bytes)' for name, size in available.items())}",
            fix="name domains of `sources`, or leave the weights out to take each as it comes",
        )
    whole = sum(shares.values())
    return {name: int(total * share / whole) for name, share in shares.items() if share > 0}


def take(texts: Iterable[str], rate: float, seed: int, *names: str) -> Iterator[str]:
    """Take each text ``rate`` times on average: always ``floor(rate)`` times, and once more by a keyed coin.

    Args:
        texts: In a fixed order.
        rate: Copies of a text on average.
        seed: The run's seed.
        *names: What the texts are, such as their shard: another name, other coins.
    """
    coins = np.random.default_rng(derive_seed(seed, "tokenizer sample", *names))
    whole, part = divmod(rate, 1.0)
    for text in texts:
        for _ in range(int(whole) + (coins.random() < part)):
            yield text


def within_budget(texts: Iterable[str], budget: int) -> Iterator[str]:
    """Pass texts on while they fit into a budget of UTF-8 bytes; one that does not fit is left out."""
    left = budget
    for text in texts:
        size = len(text.encode())
        if size <= left:
            left -= size
            yield text


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 to ``count - 1``, evenly spaced, ascending."""
    if count <= most:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * most) for i in range(most)]
