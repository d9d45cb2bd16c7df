"""A run that goes on with other workers and another ZeRO stage reads the same rows and learns the same.

Four workers at ZeRO 1, then two at ZeRO 3, then three at ZeRO 2, against one worker with the plain engine. Of nine
rows a step, four workers take three each and the fourth has nothing but padding; of ten, the last has some.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
import ranks
from figures import Tell
from ranks import run_ranks, small_config, train_small

from rayllm.data.batches import PADDING_ROW, Batch, BatchReader
from rayllm.optim.config import AdamWConfig, MuonConfig, OptimizerConfig
from rayllm.train.config import TrainConfig

#: Workers, ZeRO stage, and the step after which they stop.
STARTS = [(4, 1, 3), (2, 3, 6), (3, 2, 0)]
STEPS = 9
#: A row of a step: its number in the global batch, its domain, its number there, its tokens.
RowRead = tuple[int, int, int, tuple[int, ...]]

OPTIMIZERS: dict[str, tuple[OptimizerConfig, float]] = {
    "AdamW": (AdamWConfig(lr=3e-3), 1e-5),
    "Muon, iteration in fp32": (MuonConfig(lr=3e-3, ns_dtype="fp32"), 1e-5),
    "Muon, iteration in bf16": (MuonConfig(lr=3e-3, ns_dtype="bf16"), 1e-3),
}


def train_and_read(
    directory: str, kind: str, stage: int, config: TrainConfig, stop_at: int
) -> tuple[dict[int, float], dict[int, list[RowRead]]]:
    """Train on one rank; returns the losses, and what this rank read for each step that it trained."""
    read: dict[int, list[RowRead]] = defaultdict(list)

    class Logged(BatchReader):
        def rows(self, step: int, row_indices: Sequence[int]) -> Batch:
            batch = super().rows(step, row_indices)
            for place, tokens in zip(self.places(step, row_indices), batch.input_ids.tolist(), strict=True):
                if place.row != PADDING_ROW:
                    read[step + 1].append((place.row, place.domain, place.number, tuple(tokens)))
            return batch

    ranks.BatchReader = Logged  # pyright: ignore[reportAttributeAccessIssue] - in this rank's own process
    result = train_small(directory, kind, stage, config, stop_at=stop_at)
    last = result["state"]["step"]
    return result["losses"], {step: rows for step, rows in read.items() if step <= last}


def together(parts: Sequence[dict[int, list[RowRead]]]) -> dict[int, list[RowRead]]:
    """What all ranks read, by step, in the order of the global batch; a row read twice is there twice."""
    return {step: sorted(row for part in parts for row in part.get(step, [])) for step in parts[0]}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("AdamW", 9),
        ("Muon, iteration in fp32", 9),
        pytest.param("AdamW", 10, marks=pytest.mark.slow),
        pytest.param("Muon, iteration in bf16", 9, marks=pytest.mark.slow),
    ],
)
def test_four_then_two_then_three_workers_do_what_one_does(name: str, rows: int, tmp_path: Path, tell: Tell) -> None:
    optimizer, tolerance = OPTIMIZERS[name]
    config = small_config(optimizer=optimizer, global_batch_tokens=32 * rows, max_steps=STEPS)
    ((expected, wanted),) = run_ranks(train_and_read, 1, str(tmp_path / "one"), "torch", 0, config, 0)
    losses: dict[int, float] = {}
    for workers, stage, stop_at in STARTS:
        found = run_ranks(train_and_read, workers, str(tmp_path / "many"), "deepspeed", stage, config, stop_at)
        read = together([part for _, part in found])
        assert read == {step: sorted(wanted[step]) for step in read}
        assert all(len(each) == rows for each in read.values())
        steps = found[0][0]
        losses |= steps
        gap = max(abs(loss - expected[step]) for step, loss in steps.items())
        tell(
            "losses of changing workers against one worker",
            optimizer=name,
            rows_a_step=rows,
            steps=f"{min(steps)} to {max(steps)}",
            workers=workers,
            ZeRO=stage,
            largest_gap=f"{gap:.1e}",
        )
    assert list(losses) == list(expected) == list(range(1, STEPS + 1))
    assert max(abs(losses[step] - expected[step]) for step in expected) < tolerance
