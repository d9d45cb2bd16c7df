"""The peers of the model's benchmark do our work, and its figures are read right."""

import model
import pytest
import torch
from peers.gpt2_loop import GPT2, Loop, Settings, Sizes
from peers.nanochat_loop import Nanochat
from support.line_plot import Line, line_plot, ticks

CASE = model.Case(dim=32, num_layers=2, num_heads=2, vocab_size=40, length=12, rows=3, aims={})


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(40, (3, 13), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1], tokens[:, 1:]


def test_nanogpts_weights_give_its_loss_in_our_gpt2_block() -> None:
    torch.manual_seed(1)
    peer = GPT2(Sizes(40, 12, 2, 2, 32))
    model.check_same(model.gpt2_config(CASE), model.gpt2_weights(peer), peer, *rows())


def test_nanochats_weights_give_its_loss_in_the_dials_block() -> None:
    torch.manual_seed(1)
    peer = Nanochat(40, 12, 2, 2, 32)
    model.check_same(model.best_config(CASE), model.nanochat_weights(peer), peer, *rows())


def test_a_peer_that_does_other_work_is_found_out() -> None:
    torch.manual_seed(1)
    peer = Nanochat(40, 12, 2, 2, 32)
    weights = model.nanochat_weights(peer)
    weights["lm_head.weight"] = 3 * weights["lm_head.weight"]
    with pytest.raises(AssertionError, match="losses are"):
        model.check_same(model.best_config(CASE), weights, peer, *rows())


def test_the_peers_loop_learns_and_its_rate_follows_the_published_schedule() -> None:
    loop = Loop(Sizes(40, 12, 2, 2, 32), Settings(max_steps=2000), 0)
    assert loop.lr(0) == pytest.approx(1e-3 / 101)
    assert loop.lr(100) == pytest.approx(1e-3)
    assert loop.lr(1050) == pytest.approx(5.5e-4)
    assert loop.lr(2000) == pytest.approx(1e-4)
    losses = [loop.step(100, *rows()) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.3


def test_ticks_are_round_and_within_the_range() -> None:
    assert ticks(1.5, 2.6) == pytest.approx([1.6, 1.8, 2.0, 2.2, 2.4, 2.6])
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_plot_has_a_path_for_every_line_and_a_legend_for_every_label() -> None:
    lines = [Line("a < b", 0, [(0, 2), (1, 1.6)]), Line("", 0, [(0, 2.1), (1, 1.7)])]
    svg = line_plot(lines, "title", "x", "y", (1.5, 2.5))
    assert svg.count("clip-path=") == 2
    assert svg.count("a &lt; b") == 1
