"""DPO's loss and gradient against plain float64 arithmetic, and what a batch of pairs must count."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rayllm.data.batches import Batch, make_batch, with_reference
from rayllm.data.packing.rows import Piece
from rayllm.data.preferences import chosen_only
from rayllm.model.config import IGNORE_INDEX
from rayllm.train.config import TrainConfig
from rayllm.train.objective_config import PREFERENCE_MEASURES, DpoConfig
from rayllm.train.objectives import LanguageModeling, build_objective
from rayllm.train.preferences import DirectPreference, preference_metrics

SEPARATOR = 0


def half(length: int, prompt: int) -> tuple[list[int], list[bool]]:
    """A separator, a prompt that is only read, and a reply."""
    ids = [SEPARATOR, *range(1, length)]
    return ids, [place > prompt for place in range(length)]


def pairs_row(*lengths: tuple[int, int], prompt: int = 2) -> list[Piece]:
    """A row of pairs, of each the lengths of its halves."""
    pieces = []
    for pair in lengths:
        halves = [half(length, prompt) for length in pair]
        ids = [token for tokens, _ in halves for token in tokens] + [SEPARATOR]
        learnt = [flag for _, flags in halves for flag in flags] + [False]
        pieces.append(Piece(np.array(ids), np.array(learnt)))
    return pieces


def make_pairs() -> Batch:
    """A row of two pairs, one of a single pair, and a padding row."""
    rows = [pairs_row((6, 5), (4, 7)), pairs_row((8, 4)), []]
    batch = make_batch(rows, [0, 0, 0], 24, SEPARATOR)
    reference = [np.array([-3.0, -2.0, -1.5, -4.0]), np.array([-5.0, -0.5]), np.empty(0)]
    return with_reference(batch, reference)


def random_losses(batch: Batch) -> torch.Tensor:
    found = torch.rand(batch.labels.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return found.masked_fill(batch.labels == IGNORE_INDEX, 0.0)


def plain_loss(losses: torch.Tensor, batch: Batch, beta: float, smoothing: float) -> torch.Tensor:
    """Equation 7 of the paper pair by pair, as one would write it down; smoothed as in conservative DPO."""
    assert batch.reference is not None
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(losses)):
        for pair in range(int(batch.doc_ids[row].max()) // 2):
            log_probs = [-losses[row][batch.doc_ids[row] == 2 * pair + side].sum() for side in (1, 2)]
            if (batch.labels[row][batch.doc_ids[row] == 2 * pair + 1] == IGNORE_INDEX).all():
                continue  # padding
            h = beta * (
                log_probs[0] - batch.reference[row, 2 * pair] - log_probs[1] + batch.reference[row, 2 * pair + 1]
            )
            total = total - (1 - smoothing) * torch.log(torch.sigmoid(h)) - smoothing * torch.log(torch.sigmoid(-h))
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradient_are_those_of_the_paper(smoothing: float) -> None:
    batch = make_pairs()
    ours, theirs = (random_losses(batch).requires_grad_() for _ in range(2))
    objective = DirectPreference(DpoConfig(beta=0.3, label_smoothing=smoothing))
    loss = objective.sums(ours, batch)[0]
    expected = plain_loss(theirs, batch, 0.3, smoothing)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    assert ours.grad is not None
    assert ours.grad.abs().sum() > 0
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)
    assert objective.count(batch).tolist() == [2, 1, 0]


def test_a_policy_that_is_the_reference_has_loss_log_2_and_no_margin() -> None:
    batch = make_pairs()
    losses = random_losses(batch)
    found = [
        np.array([-float(losses[row][batch.doc_ids[row] == n].sum()) for n in range(1, count + 1)])
        for row, count in ((0, 4), (1, 2), (2, 0))
    ]
    same = with_reference(dataclasses.replace(batch, reference=None), found)
    sums = DirectPreference(DpoConfig()).sums(losses, same).tolist()
    values = dict(zip(("loss", *PREFERENCE_MEASURES), [value / 3 for value in sums], strict=True))
    assert values["loss"] == pytest.approx(math.log(2), rel=1e-12)
    assert values["margin"] == pytest.approx(0, abs=1e-12)
    assert values["chosen_reward"] == pytest.approx(0, abs=1e-12)


def test_measures_follow_what_the_policy_says() -> None:
    batch = make_pairs()
    losses = torch.zeros(batch.labels.shape, dtype=torch.float64)
    losses[0][batch.doc_ids[0] == 2] = 1.0  # the first pair's rejected reply becomes unlikely
    losses[1][batch.doc_ids[1] == 1] = 1.0  # the third pair's chosen one
    losses = losses.masked_fill(batch.labels == IGNORE_INDEX, 0.0)
    flat = dataclasses.replace(batch, reference=torch.zeros_like(batch.reference))  # pyright: ignore[reportArgumentType]
    sums = dict(
        zip(
            ("loss", *PREFERENCE_MEASURES),
            DirectPreference(DpoConfig(beta=1.0)).sums(losses, flat).tolist(),
            strict=True,
        )
    )
    lost, gained = 5.0, 2.0  # supervised tokens of these two replies
    assert sums["margin"] == gained - lost
    assert (sums["chosen_reward"], sums["rejected_reward"]) == (-lost, -gained)
    assert sums["accuracy"] == sums["likelier"] == 1.5, "one won, one lost, a tie is half a win"


def test_validation_counts_pairs_by_domain() -> None:
    sums = {"a": torch.tensor([4.0, 2.0, 8.0, 3.0, 0, 0, 1.0]), "b": torch.tensor([1.0, 1.0, 0.0, 0.0, 0, 0, 1.0])}
    found = preference_metrics(sums)
    assert (found["preference_loss/a"], found["margin/a"], found["accuracy/a"], found["likelier/b"]) == (
        0.5,
        2,
        0.75,
        1,
    )
    assert (found["mean_preference_loss"], found["mean_accuracy"]) == (0.75, 0.375)


def test_the_replies_that_were_preferred_can_be_scored_alone() -> None:
    batch = make_pairs()
    counted = (chosen_only(batch).labels != IGNORE_INDEX).sum(dim=1).tolist()
    assert counted == [3 + 1, 5, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": None}, r"`train\.init`"),
        ({"packing": "concat"}, r"`train\.packing: best_fit`"),
        ({"z_loss": 1e-4}, "`z_loss`"),
    ],
)
def test_settings_that_dpo_cannot_have_are_refused(changes: dict[str, object], message: str) -> None:
    good = {"max_steps": 1, "init": "from_checkpoint:x", "packing": "best_fit", "objective": {"kind": "dpo"}}
    assert isinstance(build_objective(TrainConfig.model_validate(good).objective), DirectPreference)
    assert isinstance(build_objective(TrainConfig(max_steps=1).objective), LanguageModeling)
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(good | changes)
