"""Weights of domains as a dimension of a space: a Dirichlet distribution around some shares, within floors and caps.

In: coordinates between 0 and 1, the natural shares of the domains. Out: weights that sum to 1 in the mixture's own
resolution. Even coordinates give the distribution; nothing is drawn and rejected, so a search can choose them.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from rayllm.core.errors import ConfigError
from rayllm.data.mixing.weights import PERIOD, check_known, domain_shares, quantize
from rayllm.tune.dimensions import Conditional

Share = Annotated[float, Field(ge=0, le=1)]
#: Least share of a center, so that a domain of which there is almost nothing can be drawn at all.
SMALLEST = 1 / PERIOD
#: Below it SciPy's inverse of the Beta distribution is not a number.
NO_SHARE = 1e-30
#: What limits that were computed may be off by.
ROUNDING = 1e-9


class Simplex(Conditional):
    """Weights of all domains, summing to 1."""

    kind: Literal["simplex"] = Field(default="simplex", description="Weights of the domains, summing to 1.")
    around: Literal["natural", "uniform"] | dict[str, Annotated[float, Field(ge=0)]] = Field(
        default="natural",
        description="Mean of the draws: `natural` (as large as the packed domains are), `uniform`, or a number for "
        "every domain.",
    )
    concentration: float = Field(
        default=1.0,
        gt=0,
        description="Of the Dirichlet distribution, for each domain: at 1 around `uniform` every mixture is as likely; "
        "above, draws lie nearer to the mean, below nearer to single domains.",
    )
    floor: Share | dict[str, Share] = Field(
        default=0.0, description="Least weight: one number for every domain, or a number for those named."
    )
    cap: Share | dict[str, Share] = Field(
        default=1.0, description="Greatest weight: one number for every domain, or a number for those named."
    )
    pull: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="How far each draw is moved towards the natural shares: 0 not, 1 all the way.",
    )

    def size(self, shares: Mapping[str, float]) -> int:
        """Coordinates of a mixture: one fewer than domains."""
        return max(len(shares) - 1, 1)

    def at(self, point: Sequence[float], shares: Mapping[str, float]) -> JsonValue:
        """The weights at a point of the unit cube.

        Args:
            point: As many coordinates as ``size``.
            shares: Natural share of each domain, summing to 1.

        Raises:
            ConfigError: If floors and caps leave no room, or name a domain that is not there.
        """
        floors, caps = self.limits(shares)
        center = domain_shares(self.around, {name: round(share * 2**40) for name, share in shares.items()}, "around")
        alphas = _alphas(list(center.values()), floors, self.concentration)
        weights = stick_breaking(point, alphas, floors, caps)
        pulled_to = fit_within(list(shares.values()), floors, caps)
        pulled = [(1 - self.pull) * own + self.pull * to for own, to in zip(weights, pulled_to, strict=True)]
        return as_weights(list(shares), pulled)

    def limits(self, shares: Mapping[str, float]) -> tuple[list[float], list[float]]:
        """Floor and cap of each domain.

        Raises:
            ConfigError: If they leave no room, or name a domain that is not there.
        """
        floors, caps = _of_each(self.floor, shares, 0.0), _of_each(self.cap, shares, 1.0)
        crossed = [name for name, low, high in zip(shares, floors, caps, strict=True) if low > high]
        if crossed or sum(floors) > 1 + ROUNDING or sum(caps) < 1 - ROUNDING:
            why = (
                f"the floor of {crossed[0]} is above its cap"
                if crossed
                else (f"the floors of {len(shares)} domains sum to {sum(floors):g}, the caps to {sum(caps):g}")
            )
            even = f"{1 / len(shares):.3g}"
            raise ConfigError(
                "no weights of the domains lie between floor and cap",
                where="tune.space",
                why=why,
                fix=f"a floor of at most {even} and a cap of at least {even} for every domain leave room",
            )
        return floors, caps


def stick_breaking(
    point: Sequence[float], alphas: Sequence[float], floors: Sequence[float], caps: Sequence[float]
) -> list[float]:
    """Weights of a Dirichlet distribution at a point of the unit cube, within floors and caps.

    Each domain in turn takes its part of what is left: a Beta quantile, cut to what its cap and the caps of those after
    it allow. Without caps, an evenly drawn point gives the Dirichlet distribution above the floors exactly. The first
    domains are cut first, so caps that often bind favour the last ones slightly.

    Args:
        point: Coordinates in [0, 1], one fewer than domains.
        alphas: Parameters of the distribution.
        floors: Least weight of each domain.
        caps: Greatest weight of each domain.

    Source: Frigyik, Kapila and Gupta 2010, Introduction to the Dirichlet Distribution, section 2.4.
    """
    from scipy.special import betainc, betaincinv

    room = max(1 - sum(floors), 0.0)
    highs = [(cap - floor) / room if room > 0 else 0.0 for floor, cap in zip(floors, caps, strict=True)]
    left, parts = 1.0, []
    for index in range(len(alphas) - 1):
        alpha, beta = alphas[index], sum(alphas[index + 1 :])
        least = max(left - sum(highs[index + 1 :]), 0.0)
        most = min(highs[index], left)
        low, high = (min(least / left, 1.0), min(most / left, 1.0)) if left > 0 else (0.0, 0.0)
        below, upto = betainc(alpha, beta, low), betainc(alpha, beta, high)
        share = below + point[index] * (upto - below)
        part = float(betaincinv(alpha, beta, share)) if share > NO_SHARE else 0.0
        parts.append(left * min(max(part, low), high))
        left = max(left - parts[-1], 0.0)
    return [floor + room * part for floor, part in zip(floors, [*parts, left], strict=True)]


def fit_within(shares: Sequence[float], floors: Sequence[float], caps: Sequence[float]) -> list[float]:
    """The shares, scaled by one factor and held within floors and caps, so that they sum to 1.

    Args:
        shares: Not negative, not all 0.
        floors: Least share of each; they sum to at most 1.
        caps: Greatest share of each; they sum to at least 1.
    """

    def held(factor: float) -> list[float]:
        scaled = [max(share, 1e-12) * factor for share in shares]
        return [min(max(one, low), high) for one, low, high in zip(scaled, floors, caps, strict=True)]

    low, high = 0.0, 1e13
    for _ in range(200):  # the sum grows with the factor: bisection on its logarithm
        middle = (low * high) ** 0.5 if low > 0 else min(1.0, high / 2)
        low, high = (middle, high) if sum(held(middle)) < 1 else (low, middle)
    return held(high)


def as_weights(names: Sequence[str], shares: Sequence[float]) -> dict[str, JsonValue]:
    """Shares in the mixture's own resolution of 1/1024, by name."""
    total = sum(shares)
    draws = quantize([share / total for share in shares])
    return {name: draw / PERIOD for name, draw in zip(names, draws, strict=True)}


def _alphas(center: Sequence[float], floors: Sequence[float], concentration: float) -> list[float]:
    """Parameters that put the mean at the center, where the center is above the floors."""
    above = [max(share - floor, SMALLEST) for share, floor in zip(center, floors, strict=True)]
    return [concentration * len(center) * share / sum(above) for share in above]


def _of_each(limit: float | Mapping[str, float], shares: Mapping[str, float], default: float) -> list[float]:
    if isinstance(limit, Mapping):
        for name in limit:
            check_known(name, list(shares), "tune.space")
        return [limit.get(name, default) for name in shares]
    return [limit] * len(shares)
