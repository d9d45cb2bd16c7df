"""The order of things in a step, and between two."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import Float
from ranks import small_config, train_small
from torch import Tensor

from rayllm.train import collective
from rayllm.train.engine import TorchEngine
from rayllm.train.saving import Saver


def test_a_rank_goes_forward_while_the_step_is_being_agreed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    begin, forward, backward = collective.begin_sum, TorchEngine.token_losses, TorchEngine.backward

    def begin_and_note(values: Float[Tensor, " n"]) -> Callable[[], None]:
        seen.append("begun")
        wait = begin(values)
        return lambda: (seen.append("waited"), wait())[1]

    def note(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (seen.append(name), method(*args))[1]

    monkeypatch.setattr(collective, "begin_sum", begin_and_note)
    monkeypatch.setattr(TorchEngine, "token_losses", note("forward", forward))
    monkeypatch.setattr(TorchEngine, "backward", note("backward", backward))
    train_small(str(tmp_path), "torch", 0, small_config(max_steps=1, micro_batch_size=4))
    assert seen == ["begun", "forward", "waited", "backward", "forward", "backward"]


def test_a_step_is_saved_before_it_is_validated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    save = Saver.save

    def save_and_note(self: Saver) -> None:
        seen.append("saved")
        save(self)

    def validate(_: object) -> dict[str, float]:
        seen.append("validated")
        return {"mean_bits_per_byte": 1.0}

    monkeypatch.setattr(Saver, "save", save_and_note)
    train_small(str(tmp_path), "torch", 0, small_config(validation={"every_steps": 3}), validate=validate)
    assert seen == ["validated", "saved", "validated", "saved", "validated"]
