"""What trials that begin from a trained model forget of its domains: bits per byte of each, against the first step's.

In: a result with its curve, the step at which trials begin. Out: changes by domain, and the largest rise among them.
"""

from rayllm.tune.results import TrialResult

_BITS = "bits_per_byte/"


def changes(result: TrialResult, begun: int) -> dict[str, float]:
    """Change of the bits per byte of each domain since the trial began; nothing where that was not validated.

    Args:
        result: The trial.
        begun: The step at which it began; with adapters the model is the base there.
    """
    if not result.curve or result.curve[0].step != begun:
        return {}
    before = result.curve[0].metrics
    return {
        name.removeprefix(_BITS): value - before[name]
        for name, value in result.metrics.items()
        if name.startswith(_BITS) and name in before
    }


def most_forgotten(result: TrialResult, begun: int) -> tuple[str, float] | None:
    """The domain whose bits per byte rose most, and by how much (below 0 where all fell); None if nothing is known."""
    found = changes(result, begun)
    return max(found.items(), key=lambda one: one[1]) if found else None


def in_words(most: tuple[str, float] | None) -> str:
    """For a table: nothing where nothing is known."""
    if most is None:
        return ""
    domain, change = most
    return f"{change:+.4f} {domain}" if round(change, 4) > 0 else "none"
