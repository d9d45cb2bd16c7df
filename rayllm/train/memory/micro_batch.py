"""How many rows a micro-batch has where the run file leaves it open: as many as fit, and no more than pay.

Pure: what fits is asked of the estimate, and on a GPU of a trial step that backs off.
"""

from collections.abc import Callable, Iterable

import torch

from rayllm.train.memory.estimate import estimate
from rayllm.train.memory.setting import Setting, rank_rows, with_rows

#: Tokens of a micro-batch from which more make a step no faster: the products fill the processor long before.
ENOUGH_TOKENS = {"cpu": 8_192, "cuda": 65_536}
#: Share of the free memory that an estimate may fill: it may be off by a tenth, and memory is never used to the last.
FILLED = 0.8


def choose_rows(mine: int, seq_len: int, enough_tokens: int, fits: Callable[[int], bool]) -> int:
    """Rows of a micro-batch.

    Micro-batches of a step are as equal as can be: of 12 rows where 8 fit, two of 6.

    Args:
        mine: Rows of the global batch that each rank takes.
        seq_len: Tokens of a row.
        enough_tokens: See ``ENOUGH_TOKENS``.
        fits: Whether so many rows fit; if some do, fewer do too.
    """
    low, high = 1, max(1, min(mine, enough_tokens // seq_len))
    while low < high:  # the most that fits lies in [low, high]
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return even(mine, low)


def rows_by_length(
    setting: Setting, shapes: Iterable[tuple[int, int]], seq_len: int, available: int, base_bytes: int | None = None
) -> dict[int, int]:
    """Rows of micro-batches, for every length of rows.

    Args:
        setting: Of the run.
        shapes: Tokens of a row and rows of the global batch of each stage.
        seq_len: The run's own length, for validation, where no stage has it.
        available: Bytes that a rank may fill.
        base_bytes: See ``estimate``.
    """
    shares: dict[int, int] = {}
    for length, batch_rows in shapes:
        shares[length] = max(shares.get(length, 0), rank_rows(batch_rows, setting.world_size))
    shares.setdefault(seq_len, max(1, max(length * mine for length, mine in shares.items()) // seq_len))

    def fitting(length: int, mine: int) -> int:
        return choose_rows(
            mine,
            length,
            ENOUGH_TOKENS[setting.device],
            lambda rows: (
                estimate(with_rows(setting, rows, length, mine * setting.world_size), base_bytes).total <= available
            ),
        )

    return {length: fitting(length, mine) for length, mine in shares.items()}


def even(mine: int, rows: int) -> int:
    """The fewest rows that need no more micro-batches than so many rows."""
    return -(-mine // -(-mine // rows))


def back_off(rows: int, attempt: Callable[[int], None]) -> int:
    """Try so many rows, and half as many until they fit.

    Args:
        rows: To begin with.
        attempt: Does a step's work with so many rows.

    Returns:
        Rows that fit; 1 without a look whether that does.
    """
    while rows > 1:
        try:
            attempt(rows)
        except torch.OutOfMemoryError:
            rows //= 2
        else:
            return rows
    return 1
