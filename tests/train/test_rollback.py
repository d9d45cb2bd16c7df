"""A spike takes the weights back to a checkpoint, and the batches since stay out, whatever interrupts the run."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import build_engine, run_ranks, small_config, small_plan, streams, train_small

from rayllm.core import faults
from rayllm.core.checkpoint import is_pinned, list_checkpoints
from rayllm.core.errors import RunFailed
from rayllm.data.batches import BatchReader
from rayllm.optim.schedules import rates_at
from rayllm.train import checkpoint, retention
from rayllm.train.config import CheckpointConfig, TrainConfig
from rayllm.train.guards.config import GuardsConfig, SpikesConfig
from rayllm.train.objectives import LanguageModeling
from rayllm.train.state import RunState

STEPS, SAVED, SPIKE = 48, 12, 38
FIRST = 2 * SAVED + 1
KEPT = f"step-{2 * SAVED:08d}-a1"


def config(action: str = "rollback", **changes: Any) -> TrainConfig:
    """A spike at 38 goes back to the checkpoint of 24: that of 36 is nearer than the margin."""
    spikes = SpikesConfig(action=action, margin_steps=5, max_rollbacks=1)  # pyright: ignore[reportArgumentType]
    saving = CheckpointConfig(every_steps=SAVED, asynchronous=False)
    values = {"max_steps": STEPS, "micro_batch_size": 8, "checkpoint": saving} | changes
    return small_config(guards=GuardsConfig(spikes=spikes), **values)


def breaking(fault: str, directory: str, settings: TrainConfig, kind: str = "torch", stage: int = 0) -> dict[str, Any]:
    """Train with faults; an error becomes its text."""
    os.environ |= {"RAYLLM_ALLOW_FAULTS": "1", "RAYLLM_FAULT": fault}
    faults._specs.cache_clear()
    try:
        return train_small(directory, kind, stage, settings)
    except RunFailed as error:
        return {"error": str(error)}


def warnings(result: dict[str, Any]) -> list[str]:
    return [r["message"] for r in result["records"] if r["kind"] == "event" and r["level"] == "warning"]


def same_weights(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return all(left["weights"][name].equal(right["weights"][name]) for name in right["weights"])


def on_every_engine(directory: str) -> dict[str, dict[str, Any]]:
    layouts = [("torch", 0), ("deepspeed", 1), ("deepspeed", 3)]
    short = config(max_steps=SPIKE + 3)
    return {
        f"{kind}{stage}": breaking(f"step:{SPIKE}=spike", f"{directory}/{kind}{stage}", short, kind, stage)
        for kind, stage in layouts
    }


def test_all_engines_and_ranks_go_back_alike(tmp_path: Path) -> None:
    ranks = run_ranks(on_every_engine, 2, str(tmp_path))
    first = ranks[0]["torch0"]
    for name, result in ranks[0].items():
        assert result["finished"]
        assert same_weights(result, ranks[1][name]), "ranks differ"
        assert (result["state"]["left_out"], result["state"]["rollbacks"]) == ([[FIRST, SPIKE]], 1)
        assert result["state"]["optimizer_steps"] == 2 * SAVED + 3
        assert abs(result["losses"][SPIKE + 3] - first["losses"][SPIKE + 3]) < 1e-4


def alone(directory: str) -> dict[str, Any]:
    spike = f"step:{SPIKE}=spike"
    found = {
        "straight": breaking(spike, f"{directory}/straight", config()),
        "by hand": {"weights": by_hand(f"{directory}/straight")},
    }
    shutil.copytree(f"{directory}/straight", f"{directory}/after")
    for ref in list_checkpoints(f"{directory}/after/checkpoints"):
        if ref.step > SPIKE:
            shutil.rmtree(ref.uri)
    found["killed after"] = breaking("", f"{directory}/after", config())
    found["killed before"] = breaking(spike, f"{directory}/before", config())
    found["twice"] = breaking(f"{spike},step:47=spike", f"{directory}/twice", config())
    nan = ",".join(f"step:{step}=nan" for step in range(SPIKE, SPIKE + 3))
    found["not finite"] = breaking(nan, f"{directory}/nan", config())
    found["gives up"] = breaking(nan, f"{directory}/gives-up", config("report"))
    found["skipped"] = breaking(spike, f"{directory}/skipped", config("skip"))
    never = CheckpointConfig(every_steps=1000)
    found["no checkpoint"] = breaking(spike, f"{directory}/none", config(checkpoint=never))
    return found


def by_hand(directory: str) -> dict[str, torch.Tensor]:
    """What should come out: the checkpoint's weights, trained on what follows the spike."""
    settings = config()
    engine, plan = build_engine("torch", 0, settings), small_plan(settings)
    checkpoint.restore(engine, RunState(), f"{directory}/checkpoints/{KEPT}")
    reader, objective = BatchReader(list(streams().values()), plan, 0), LanguageModeling()
    for step in range(SPIKE, STEPS):
        batches = list(reader.micro_batches(step, 1, 0, settings.micro_batch_size))
        count = sum(float(objective.count(batch).sum()) for batch in batches)
        for batch in batches:
            engine.backward(objective.sums(engine.token_losses(batch), batch)[0] / count)
        engine.step(rates_at(settings.optimizer, settings.schedule, step, STEPS))
    return {name: tensor.clone() for name, tensor in engine.full_parameters()}


def test_a_checkpoint_that_is_old_enough_is_kept(tmp_path: Path) -> None:
    for step in (12, 24, 36, 37):
        (tmp_path / f"step-{step:08d}-a1").mkdir()
        (tmp_path / f"step-{step:08d}-a1" / "COMMIT.json").touch()
    for margin, doomed in ((None, [12, 24]), (5, [12]), (13, [12]), (14, [24])):
        found = retention.beyond_what_is_kept(str(tmp_path), 2, keep_best=False, margin_steps=margin)
        assert [int(uri[-11:-3]) for uri in found] == doomed


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def found(directory: Path) -> dict[str, Any]:
    with pytest.raises(AssertionError, match="died"):
        run_ranks(breaking, 1, f"step:{SPIKE - 1}=kill", f"{directory}/before", config())
    return run_ranks(alone, 1, str(directory))[0]


def test_training_goes_on_from_the_checkpoint_with_what_follows_the_spike(found: dict[str, Any]) -> None:
    assert same_weights(found["straight"], found["by hand"])
    assert found["straight"]["state"]["tokens"] == STEPS * 256, "the place in the data goes on"


def test_the_event_names_the_checkpoint_the_batches_and_the_rows(found: dict[str, Any], directory: Path) -> None:
    (said,) = warnings(found["straight"])
    reader = BatchReader(list(streams().values()), small_plan(config()), 0)
    place = reader.places(SPIKE - 1, range(8))[0]
    assert f"step {SPIKE}: loss " in said
    assert f"back to {KEPT}" in said
    assert f"the batches of steps {FIRST} to {SPIKE} are left out (roll-back 1 of 1)" in said
    rows = dict(part.split(" ", 1) for part in said.partition("rows of the last: ")[2].split("; "))
    assert str(place.number) in rows["ab"[place.domain]].split(", ")
    assert is_pinned(f"{directory}/straight/checkpoints/{KEPT}")


@pytest.mark.parametrize(("case", "resumed"), [("killed after", SPIKE), ("killed before", 3 * SAVED)])
def test_a_run_killed_before_or_after_going_back_ends_with_the_same_bits(
    case: str, resumed: int, found: dict[str, Any]
) -> None:
    assert found[case]["resumed"].rpartition("/")[2].startswith(f"step-{resumed:08d}")
    assert same_weights(found[case], found["straight"])
    for name in ("left_out", "rollbacks", "optimizer_steps", "losses", "tokens"):
        assert found[case]["state"][name] == found["straight"]["state"][name]


def test_after_its_roll_backs_the_run_ends_and_names_the_batch(found: dict[str, Any]) -> None:
    text = found["twice"]["error"]
    assert "went wrong again after 1 roll-backs" in text
    assert "step 47" in text
    assert "rows of the batch: a " in text


def test_three_steps_that_are_not_finite_go_back_too(found: dict[str, Any]) -> None:
    result = found["not finite"]
    assert result["state"]["left_out"] == [[FIRST, SPIKE + 2]]
    assert result["state"]["skipped_in_a_row"] == 0
    assert "not finite for 3 steps in a row: back to" in warnings(result)[-1]
    assert all(tensor.isfinite().all() for tensor in result["weights"].values())


def test_without_roll_back_the_end_names_the_rows(found: dict[str, Any]) -> None:
    assert "not finite for 3 steps in a row" in found["gives up"]["error"]
    assert "rows of the last batch: a " in found["gives up"]["error"]


def test_a_skipped_spike_and_one_before_any_checkpoint_leave_out_their_step_alone(found: dict[str, Any]) -> None:
    for case in ("skipped", "no checkpoint"):
        assert found[case]["state"]["left_out"] == [[SPIKE, SPIKE]]
        assert found[case]["state"]["rollbacks"] == 0
        assert f"step {SPIKE}: loss" in warnings(found[case])[0]
    assert "no checkpoint yet to go back to" in warnings(found["no checkpoint"])[0]
    assert same_weights(found["skipped"], found["no checkpoint"])
