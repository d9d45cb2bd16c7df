import json
import random

import numpy as np
import pytest
import torch

from rayllm.train.state import HISTORY, RunState, rng_state, seed_everything, set_rng_state


def draw() -> tuple[object, ...]:
    """Numbers of every generator, of kinds that leave something cached in them."""
    return (
        random.random(),
        random.gauss(0, 1),
        random.sample(range(100), 5),
        np.random.standard_normal(3).tolist(),
        np.random.randint(0, 1000, 3).tolist(),
        torch.rand(3).tolist(),
        torch.randperm(10).tolist(),
    )


def test_restored_generators_continue_the_same_stream() -> None:
    seed_everything(7)
    draw()  # leaves half of a Gaussian pair cached in two generators
    saved = rng_state()
    expected = [draw(), draw()]
    seed_everything(8)
    draw()
    set_rng_state(saved)
    assert [draw(), draw()] == expected


def test_generators_are_saved_as_plain_bytes() -> None:
    saved = rng_state()
    assert {"rng.python", "rng.numpy", "rng.torch"} <= set(saved)
    assert all(tensor.dtype == torch.uint8 for tensor in saved.values())


def test_the_generator_of_a_gpu_is_saved_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    put_back: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([1, 2, 3], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", put_back.append)
    saved = rng_state()
    assert set(saved) == {"rng.python", "rng.numpy", "rng.torch", "rng.cuda"}
    set_rng_state(saved)
    assert [tensor.tolist() for tensor in put_back] == [[1, 2, 3]]


def test_a_snapshot_does_not_change_what_is_drawn_next() -> None:
    seed_everything(3)
    expected = draw()
    seed_everything(3)
    rng_state()
    assert draw() == expected


def test_seeds_may_have_63_bits_and_give_other_streams() -> None:
    streams = []
    for seed in (1, 2**62 + 1, 2**63 - 1):
        seed_everything(seed)
        streams.append(draw())
    assert len({str(stream) for stream in streams}) == 3


def test_a_state_survives_json_but_for_the_attempt() -> None:
    state = RunState(attempt=1, precision="bf16")
    state.advance(2.0, {"a": 10, "b": 5}, applied=True)
    state.advance(1.5, {"a": 10, "b": 5}, applied=False)
    state.validation = {"mean_bits_per_byte": 1.25}
    restored = RunState(attempt=4)
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert restored.state_dict() == state.state_dict() | {"attempt": 4}


def test_a_state_dict_is_a_copy() -> None:
    state = RunState()
    state.advance(2.0, {"a": 1}, applied=True)
    saved = state.state_dict()
    state.advance(1.0, {"a": 1}, applied=True)
    assert saved["domain_tokens"] == {"a": 1}
    assert saved["losses"] == [2.0]


def test_steps_are_counted_whether_applied_or_skipped() -> None:
    state = RunState()
    for applied in (True, False, False, True, False):
        state.advance(1.0, {"a": 3}, applied=applied)
    assert (state.step, state.optimizer_steps, state.skipped_in_a_row) == (5, 2, 1)
    assert (state.tokens, state.domain_tokens) == (15, {"a": 15})


def test_only_the_last_losses_are_kept() -> None:
    state = RunState()
    for step in range(HISTORY + 5):
        state.advance(float(step), {}, applied=True)
    assert state.losses == [float(step) for step in range(5, HISTORY + 5)]
