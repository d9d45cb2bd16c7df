"""Weights of domains: from what the user writes to whole numbers that sum to 1,024.

In: ``natural``, ``uniform`` or a number for each domain. Out: shares of the draws, normalised, then quantised to
1/1024, so that a period of 1,024 draws holds each domain a whole number of times.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rayllm.core.config import ConfigModel
from rayllm.core.errors import ConfigError, DataError

#: Draws in a period of the mixture; weights are multiples of its inverse.
PERIOD = 1024


def _some_weight(weights: "Weights") -> "Weights":
    if isinstance(weights, dict) and not any(weights.values()):
        raise ValueError("at least one domain needs a weight above 0")
    return weights


Weights = Annotated[
    dict[str, Annotated[float, Field(ge=0)]] | Literal["natural", "uniform"], AfterValidator(_some_weight)
]


class MixtureConfig(ConfigModel):
    """How much of each domain the model reads."""

    weights: Weights = Field(
        default="natural",
        description="Share of the tokens from each domain: `natural` (as large as the domains are), `uniform`, or a "
        "number for every domain (normalised; 0 leaves a domain out).",
    )


def domain_shares(weights: Weights, sizes: Mapping[str, int], where: str = "mixture.weights") -> dict[str, float]:
    """The share of each domain, in the order of ``sizes``, summing to 1.

    Args:
        weights: As in ``MixtureConfig.weights``.
        sizes: Tokens of each domain.
        where: The setting to name in an error.

    Raises:
        ConfigError: If the weights name a domain that is not there, or leave one out.
        DataError: If no domain has tokens.
    """
    if not any(sizes.values()):
        raise DataError("there are no tokens to train on", why=f"the domains {', '.join(sizes) or '(none)'} are empty")
    if weights == "uniform":
        return {name: 1 / len(sizes) for name in sizes}
    check_names(weights, list(sizes), where)
    amounts = sizes if weights == "natural" else weights
    total = sum(amounts.values())
    return {name: amounts[name] / total for name in sizes}


def check_names(weights: Weights, known: Sequence[str], where: str) -> None:
    """Refuse weights that name a domain that is not there, or leave one out.

    Raises:
        ConfigError: Naming the first such domain.
    """
    if isinstance(weights, str):
        return
    for name in weights:
        check_known(name, known, where)
    missing = [name for name in known if name not in weights]
    if missing:
        raise ConfigError(
            f"no weight is given for {', '.join(missing)}",
            where=where,
            fix=f"add `{missing[0]}: 0` to leave that domain out, or give it a weight",
        )


def check_known(name: str, known: Sequence[str], where: str) -> None:
    """Refuse the name of a domain that is not there.

    Raises:
        ConfigError: With the nearest name that is.
    """
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "use the names of `sources:`"
        raise ConfigError(
            f"there is no domain {name!r}", where=where, why=f"the domains are {', '.join(known)}", fix=hint
        )


def quantize(shares: Sequence[float]) -> tuple[int, ...]:
    """Round shares to whole numbers that sum to ``PERIOD``, by largest remainder.

    Args:
        shares: Not negative, summing to 1. A positive share never becomes 0.

    Returns:
        Draws of each domain in one period.

    Raises:
        ConfigError: If there are more positive shares than draws in a period.
    """
    quotas = [share * PERIOD for share in shares]
    if sum(quota > 0 for quota in quotas) > PERIOD:
        raise ConfigError(f"a mixture holds at most {PERIOD:,} domains", fix="merge small domains into larger ones")
    draws = [max(int(quota), 1) if quota > 0 else 0 for quota in quotas]
    order = range(len(draws))
    while sum(draws) < PERIOD:
        draws[max((i for i in order if quotas[i] > 0), key=lambda i: quotas[i] - draws[i])] += 1
    while sum(draws) > PERIOD:
        draws[max((i for i in order if draws[i] > 1), key=lambda i: draws[i] - quotas[i])] -= 1
    return tuple(draws)
