"""Weights of domains: from what the user writes to whole numbers that sum to 1,024.

In: ``natural``, ``uniform`` or a number for each domain, and a temperature. Out: shares of the tokens (every draw is a
block of as many tokens, so documents never count), normalised, then quantised to 1/1024, so that a period of 1,024
draws holds each domain a whole number of times.
"""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rayllm.core.config import ConfigModel
from rayllm.core.errors import ConfigError, DataError
from rayllm.data.mixing.adaptive_config import AdaptiveConfig

#: Draws in a period of the mixture; weights are multiples of its inverse.
PERIOD = 1024
#: Mixtures that have a name.
NAMED: tuple[Literal["natural"], Literal["uniform"]] = ("natural", "uniform")
#: Up to about four epochs, repeated text is worth almost as much as new text. Source: Muennighoff et al. 2023, Scaling
#: Data-Constrained Language Models, arXiv:2305.16264, section 6.
WORTHWHILE_EPOCHS = 4.0


def _some_weight(weights: "Weights") -> "Weights":
    if isinstance(weights, dict) and not any(weights.values()):
        raise ValueError("at least one domain needs a weight above 0")
    return weights


Weights = Annotated[
    dict[str, Annotated[float, Field(ge=0)]] | Literal["natural", "uniform"], AfterValidator(_some_weight)
]
#: Shares are raised to the inverse of it. From 0.1, so that the smallest share stays above 0.
Temperature = Annotated[float, Field(ge=0.1)]
Epochs = Annotated[float, Field(gt=0)]


class MixtureConfig(ConfigModel):
    """How much of each domain the model reads, and how often it may read the same text."""

    weights: Weights = Field(
        default="natural",
        description="Share of the tokens from each domain: `natural` (as large as the domains are), `uniform`, or a "
        "number for every domain (normalised; 0 leaves a domain out).",
    )
    temperature: Temperature = Field(
        default=1.0,
        description="The shares of `weights` are raised to the power 1/temperature and normalised: 1 keeps them, above "
        "1 small domains are read more, below 1 less.",
    )
    max_epochs: Epochs | dict[str, Epochs] | None = Field(
        default=WORTHWHILE_EPOCHS,
        description="How often a domain's text may be read: one number for all, or a number for each domain named (the "
        "others have no cap); null for no cap.",
    )
    cap: Literal["warn", "redistribute"] = Field(
        default="warn",
        description="Where a plan exceeds `max_epochs`: `warn`, or `redistribute`, which holds the domain to its cap "
        "and gives the rest of its tokens to the others by their weights.",
    )
    adaptive: AdaptiveConfig | None = Field(
        default=None,
        description="Move the weights while the run trains, towards domains in which it is worse than a reference was; "
        "`weights` are those that it begins with.",
    )

    @model_validator(mode="after")
    def _one_thing_moves_the_weights(self) -> "MixtureConfig":
        if self.adaptive and self.cap == "redistribute":
            raise ValueError(
                "`cap: redistribute` plans the weights of the whole run, and `adaptive` changes them: keep `cap: warn` "
                "and hold domains with `adaptive.max_weight`"
            )
        return self

    def caps(self, domains: Sequence[str]) -> dict[str, float]:
        """The most epochs of each domain; infinite where it has no cap."""
        given = self.max_epochs
        if isinstance(given, dict):
            return {name: given.get(name, math.inf) for name in domains}
        return dict.fromkeys(domains, math.inf if given is None else given)


def domain_shares(
    weights: Weights, sizes: Mapping[str, float], where: str = "mixture.weights", temperature: float = 1.0
) -> dict[str, float]:
    """The share of each domain in the tokens, in the order of ``sizes``, summing to 1.

    Args:
        weights: As in ``MixtureConfig.weights``.
        sizes: Tokens of each domain, or what is proportional to them.
        where: The setting to name in an error.
        temperature: As in ``MixtureConfig.temperature``.

    Raises:
        ConfigError: If the weights name a domain that is not there, or leave one out.
        DataError: If no domain has tokens.

    Source: the temperature is that of Devlin 2019, multilingual BERT (github.com/google-research/bert,
    multilingual.md), where shares are raised to 0.7; XLM-R's alpha = 1/temperature is 0.3 (Conneau et al. 2020,
    arXiv:1911.02116, section 3.1).
    """
    if not any(sizes.values()):
        raise DataError("there are no tokens to train on", why=f"the domains {', '.join(sizes) or '(none)'} are empty")
    check_names(weights, list(sizes), where)
    amounts = dict.fromkeys(sizes, 1.0) if weights == "uniform" else sizes if weights == "natural" else weights
    total = sum(amounts.values())
    shares = {name: amounts[name] / total for name in sizes}
    if temperature == 1:
        return shares
    largest = max(shares.values())
    powers = {name: (share / largest) ** (1 / temperature) for name, share in shares.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


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


def quantize(shares: Sequence[float], at_most: Collection[int] = ()) -> tuple[int, ...]:
    """Round shares to whole numbers that sum to ``PERIOD``, by largest remainder.

    Args:
        shares: Not negative, summing to 1. A positive share never becomes 0.
        at_most: Domains whose share is an upper bound: they are rounded down, unless all are.

    Returns:
        Draws of each domain in one period.

    Raises:
        ConfigError: If there are more positive shares than draws in a period.
    """
    quotas = [share * PERIOD for share in shares]
    present = [i for i, quota in enumerate(quotas) if quota > 0]
    if len(present) > PERIOD:
        raise ConfigError(f"a mixture holds at most {PERIOD:,} domains", fix="merge small domains into larger ones")
    draws = [max(int(quota), 1) if quota > 0 else 0 for quota in quotas]
    growing = [i for i in present if i not in at_most] or present
    while sum(draws) < PERIOD:
        draws[max(growing, key=lambda i: quotas[i] - draws[i])] += 1
    while sum(draws) > PERIOD:
        draws[max((i for i in present if draws[i] > 1), key=lambda i: draws[i] - quotas[i])] -= 1
    return tuple(draws)
