"""Which block a row reads: a pure function of the plan and the row's number.

In: a ``Plan``. Out: for any row of any stage its domain and its number there, in constant time and without memory, so
that a run resumes by jumping. Three layers: the chairman assignment orders the domains within a period of 1,024 draws;
a draw's rank counts the draws of its domain over the whole run; a keyed permutation for each domain and epoch maps the
rank to what is drawn: a block of the longest length, which shorter stages cut into rows, or a row of a best-fit index.
"""

import functools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64, UInt64

from rayllm.core.rng import derive_seed
from rayllm.data.mixing.plan import Plan
from rayllm.data.mixing.weights import PERIOD

Ints = Int64[np.ndarray, " n"]
Words = UInt64[np.ndarray, " n"]

ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUND_SALTS = np.arange(1, ROUNDS + 1, dtype=np.uint64) * _GOLDEN


@functools.lru_cache(maxsize=1024)
def chairman_order(weights: tuple[int, ...]) -> Ints:
    """Lay out one period so that each domain comes up as evenly as can be.

    Args:
        weights: Draws of each domain; they sum to the length of the period.

    Returns:
        The domain of each draw, for reading only. After any n draws the count of a domain with weight w of P differs
        from n * w / P by at most 1 - 1 / (2 * (k - 1)), where k is the number of domains with a weight.

    Source: R. Tijdeman 1980, The chairman assignment problem, Discrete Mathematics 32(3), 323-330. Of the domains
    whose claim is at least 1 / (2k - 2), the one is chosen that would first exceed the bound. All in integers.
    """
    period = sum(weights)
    present = np.flatnonzero(weights)
    if len(present) == 1:
        return np.full(period, present[0])
    share, scale = np.asarray(weights, np.int64)[present], 2 * len(present) - 2
    chosen = np.zeros(len(present), np.int64)
    order = np.empty(period, np.int64)
    for draw in range(1, period + 1):
        claims = scale * (share * draw - period * chosen)
        deadlines = (period * (scale - 1) + scale * period * chosen) // (scale * share) + 1
        winner = np.where(claims >= period, deadlines, np.iinfo(np.int64).max).argmin()
        order[draw - 1] = present[winner]
        chosen[winner] += 1
    order.flags.writeable = False  # kept: a table has many rows with the same weights
    return order


def mix64(value: Words) -> Words:
    """Scramble 64-bit words, one to one: the finalizer of SplitMix64.

    Source: Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators, OOPSLA, figure 17.
    """
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def permute(index: Ints, size: Ints, key: Words) -> Ints:
    """Send each index to its place in the permutation of ``range(size)`` that the key names.

    A balanced Feistel network permutes the next even power of two; what falls outside the range walks its cycle until
    it is inside again (fewer than four rounds of it on average), which leaves a permutation of the range.

    Args:
        index: Numbers in ``[0, size)``.
        size: Size of each number's range, at least 1.
        key: Key of each number's permutation.

    Source: Luby and Rackoff 1988, How to construct pseudorandom permutations from pseudorandom functions, SIAM J.
    Computing 17(2); cycle walking: Black and Rogaway 2002, Ciphers with arbitrary finite domains, CT-RSA.
    """
    bits = np.frexp((size - 1).astype(np.float64))[1]  # bit length: exact below 2**53
    half = np.maximum((bits + 1) // 2, 1).astype(np.uint64)
    value, bound = index.astype(np.uint64), size.astype(np.uint64)
    outside = np.ones(len(value), bool)
    while outside.any():
        value[outside] = _feistel(value[outside], half[outside], key[outside])
        outside = value >= bound
    return value.astype(np.int64)


def _feistel(value: Words, half: Words, key: Words) -> Words:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for salt in _ROUND_SALTS:
        left, right = right, left ^ (mix64(right ^ mix64(key + salt)) & mask)
    return (left << half) | right


@dataclass(frozen=True)
class _StageLayout:
    """One stage's period: what each draw is, and where the stage begins in its domains."""

    rows_per_unit: int
    units: Ints  # of each domain
    order: Ints  # domain of each draw of the period
    rank: Ints  # draws of the same domain before it in the period
    counts: Int64[np.ndarray, "draws domains"]  # draws of each domain among the first n of the period
    first_draw: Int64[np.ndarray, " domains"]  # draws of each domain in earlier stages
    shuffles: tuple["_Shuffle", ...]  # up to here, the newest first


@dataclass(frozen=True)
class _Shuffle:
    """From some draw of each domain on, another order of what its epoch has left, and of the epochs that follow."""

    keys: Words  # of each domain
    first_draw: Int64[np.ndarray, " domains"]

    def place(self, domain: Ints, epoch: Ints, position: Ints, units: Ints) -> Ints:
        """Where a draw at a position of its epoch stands in the order before this one."""
        first_epoch, first = np.divmod(self.first_draw[domain], units)
        start = np.where(epoch == first_epoch, first, 0)
        keys = mix64(self.keys[domain] + epoch.astype(np.uint64) * _GOLDEN)
        return start + permute(position - start, units - start, keys)


class Mixture:
    """Rows of a run, by number.

    Args:
        plan: The run's plan; with its seed it decides everything.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @cached_property
    def _keys(self) -> Words:
        return self._domain_keys(self.plan.seed, "mixture")

    def _domain_keys(self, seed: int, use: str) -> Words:
        return np.asarray([derive_seed(seed, use, name) for name in self.plan.domains], np.uint64)

    @cached_property
    def _layouts(self) -> list[_StageLayout]:
        layouts = []
        # Draws so far: of blocks over all stages, of rows of an index over the stages of its length.
        drawn = {stage.seq_len: np.zeros(len(self.plan.domains), np.int64) for stage in self.plan.stages}
        shuffles: list[tuple[Words, dict[int, Ints]]] = []
        current: int | None = None
        for stage in self.plan.stages:
            unit_tokens = self.plan.unit_tokens(stage)
            if stage.shuffle is not None and stage.shuffle != current:
                keys = self._domain_keys(stage.shuffle, "shuffle")
                shuffles.insert(0, (keys, {tokens: done.copy() for tokens, done in drawn.items()}))
                current = stage.shuffle
            order = chairman_order(stage.weights)
            taken = order[:, None] == np.arange(len(stage.weights))
            counts = np.concatenate([np.zeros((1, taken.shape[1]), np.int64), taken.cumsum(0)])
            rows_per_unit, units = unit_tokens // stage.seq_len, np.asarray(self.plan.units(stage), np.int64)
            rank = counts[np.arange(PERIOD), order]
            since = tuple(_Shuffle(keys, done[unit_tokens]) for keys, done in shuffles)
            layouts.append(_StageLayout(rows_per_unit, units, order, rank, counts, drawn[unit_tokens], since))
            # The next stage goes on where this one's last draw ended, though its order begins on a fresh period.
            groups, rest = divmod(stage.steps * stage.batch_rows, PERIOD * rows_per_unit)
            drawn[unit_tokens] = drawn[unit_tokens] + groups * counts[-1] + counts[min(rest, PERIOD)]
        return layouts

    def draws(self, stage: int, first_row: int, count: int) -> tuple[Ints, Ints]:
        """Domain and number of consecutive rows; see ``rows``."""
        return self.rows(stage, np.arange(first_row, first_row + count))

    def rows(self, stage: int, row: Ints) -> tuple[Ints, Ints]:
        """Domain and number of rows of a stage.

        Args:
            stage: Index of the stage.
            row: Numbers of the rows, counted from the stage's beginning.

        Returns:
            For each row the index of its domain, and its number among the domain's rows of the stage's length.
        """
        layout = self._layouts[stage]
        group, within = np.divmod(np.asarray(row, np.int64), PERIOD * layout.rows_per_unit)
        part, slot = np.divmod(within, PERIOD)
        domain = layout.order[slot]
        draw = layout.first_draw[domain] + group * layout.counts[-1][domain] + layout.rank[slot]
        units = layout.units[domain]
        epoch, position = np.divmod(draw, units)
        for shuffle in layout.shuffles:
            position = shuffle.place(domain, epoch, position, units)
        keys = mix64(self._keys[domain] + epoch.astype(np.uint64) * _GOLDEN)
        return domain, permute(position, units, keys) * layout.rows_per_unit + part

    def domain_tokens(self, step: int) -> dict[str, int]:
        """Tokens of each domain that the steps before this one read, exactly; ``step`` may be ``total_steps``."""
        total = np.zeros(len(self.plan.domains), np.int64)
        first = 0
        for stage, layout in zip(self.plan.stages, self._layouts, strict=True):
            rows = min(max(step - first, 0), stage.steps) * stage.batch_rows
            periods, rest = divmod(rows, PERIOD)
            total += (periods * layout.counts[-1] + layout.counts[rest]) * stage.seq_len
            first += stage.steps
        return dict(zip(self.plan.domains, total.tolist(), strict=True))
