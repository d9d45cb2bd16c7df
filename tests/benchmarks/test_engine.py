"""What the engine's benchmark compares does the same work, and its clocks count what they say."""

import time
from collections.abc import Callable
from pathlib import Path

import engine
import pytest
import torch
from ranks import run_ranks
from support import loop_clock, small_runs
from support.small_runs import launch, pack_random, write_config

from rayllm.core.log import SinkGroup
from rayllm.train.update_ratio import UpdateRatios

MODEL = engine.TINY | {"vocab_size": 512}
TRAIN = {"seq_len": 32, "global_batch_tokens": 128, "micro_batch_size": 2, "max_steps": 12, "precision": "fp32"}


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_plain_loop_and_every_zero_stage_take_the_same_steps(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WIDTH_384", engine.TINY)
    monkeypatch.setattr(engine, "SEQ_LEN", 32)
    monkeypatch.setattr(engine, "MOST_APART", 1e-4)
    times = run_ranks(engine.step_times, ranks, "fp32", 3)[0]
    assert set(times) == {"plain", "ZeRO-0", "ZeRO-1", "ZeRO-2"}
    assert all(len(seconds) == 3 for seconds in times.values())


def test_a_session_is_clocked_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_clock, "_ray_sinks", lambda _: SinkGroup([]))
    packed = pack_random(tmp_path / "packed", 20_000)
    config = write_config(tmp_path / "run.yaml", MODEL, TRAIN, workers=2)
    found = run_ranks(loop_clock.clock_loop, 2, str(config), packed, str(tmp_path / "run"))[0]
    assert 0 < found.waiting_s < found.outside_s < found.step_s
    assert 0 < found.record_waiting_s < found.record_s < found.outside_s


def test_how_far_a_logged_step_moves_the_weights_is_a_part_of_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the step, after it, and until all ranks have it."""

    def look(_: UpdateRatios) -> torch.Tensor:
        time.sleep(0.02)
        return torch.zeros(0)

    def since(*_: object) -> Callable[[], dict[str, float]]:
        time.sleep(0.02)
        return lambda: (time.sleep(0.02), {})[1]

    monkeypatch.setattr(loop_clock, "_ray_sinks", lambda _: SinkGroup([]))
    monkeypatch.setattr(UpdateRatios, "look", look)
    monkeypatch.setattr(UpdateRatios, "since", since)
    packed = pack_random(tmp_path / "packed", 20_000)
    config = write_config(tmp_path / "run.yaml", MODEL, TRAIN | {"logging": {"every_steps": 1}}, workers=1)
    (found,) = run_ranks(loop_clock.clock_loop, 1, str(config), packed, str(tmp_path / "run"))
    assert found.record_s > 0.06


def test_the_clock_gives_each_call_to_its_kind() -> None:
    clock = loop_clock.Clock()
    work = clock.timed("engine", lambda: time.sleep(0.002))
    summed = clock.timed("collective", lambda: time.sleep(0.0005))
    part = clock.timed("record", lambda: (time.sleep(0.0005), summed()))
    record = clock.timed("record", part)
    wait = clock.timed("collective", lambda: None)
    step = clock.timed("engine", lambda: None, ends_step=True)
    for _ in range(loop_clock.WARM_UP_STEPS + 3):
        work(), record(), wait(), step()
    found = clock.read()
    assert found.record_s <= found.outside_s < found.step_s, "what is a part of a record counts once"
    assert 0.0005 <= found.record_waiting_s <= found.record_s - 0.0005
    assert found.outside_s < 0.002 + 0.002


@pytest.mark.slow
def test_a_run_stands_where_it_is_put_and_goes_on_from_there(tmp_path: Path) -> None:
    packed = pack_random(tmp_path / "packed", 20_000)
    config = str(write_config(tmp_path / "run.yaml", MODEL, TRAIN | {"max_steps": 90}, workers=1))
    script = [*engine.TORCHRUN, "--nproc-per-node=1", str(engine.SUPPORT / "bare_run.py"), config, packed]
    launch([*script, str(tmp_path / "run"), "--save-at=80"], tmp_path / "run")
    resumed = launch([*script, str(tmp_path / "run"), "--one-step"], tmp_path / "run")
    assert small_runs.train_records(tmp_path / "run")[-1]["step"] == 81
    assert len(resumed.losses) == 1
    assert resumed.first_step_s > 0
