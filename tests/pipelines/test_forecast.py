"""What a plan says of forks, of GPUs without bf16, and of checkpoints that are kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rayllm.core import storage
from rayllm.core.artifact import MANIFEST
from rayllm.core.checkpoint import COMMIT, Commit, checkpoint_name
from rayllm.core.errors import ConfigError, SetupError
from rayllm.pipelines.plan import machines
from rayllm.pipelines.plan.beginning import find_beginning
from rayllm.pipelines.plan.describe import Options, describe
from rayllm.pipelines.plan.machines import choose_precision, find_machines
from rayllm.pipelines.run_config import RunConfig
from rayllm.pipelines.train.fork_origin import FORK, Origin
from rayllm.pipelines.train.preflight import kept_checkpoints
from rayllm.train.checkpoint import STATE
from rayllm.train.config import TrainConfig
from rayllm.train.hardware import find_device
from rayllm.train.metrics import PEAK_FLOPS
from rayllm.train.state import RunState

STEPS = 1000
MODEL = {"vocab_size": 512, "dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 64}


def make_config(root: Path, **train: Any) -> RunConfig:
    small = {"max_steps": STEPS, "seq_len": 32, "global_batch_tokens": 256, "validation": {"every_steps": 300}}
    return RunConfig.model_validate(
        {
            "name": "t",
            "storage": str(root),
            "sources": {"a": [{"kind": "python_stdlib"}]},
            "fit_tokenizer": {"kind": "bpe", "vocab_size": 512},
            "model": MODEL,
            "curriculum": [{"steps": 600}, {"frac": 1, "global_batch_tokens": 512}],
            "train": small | train,
        }
    )


def plan(config: RunConfig, device: str = "h100") -> dict[str, Any]:
    return describe(config, Options("run.yaml", device, None, None, None, probe=False))


def make_checkpoint(root: Path, step: int, precision: str) -> str:
    """As much of a checkpoint as a plan looks at."""
    uri = storage.join(str(root), "checkpoints", checkpoint_name(step, 1))
    state = RunState(step=step, precision=precision).state_dict()
    storage.write_text(storage.join(uri, STATE), json.dumps(state))
    commit = Commit(step=step, attempt=1, world_size=1, manifests=[])
    storage.write_text(storage.join(uri, COMMIT), commit.model_dump_json())
    return str(root)


def test_a_fork_is_planned_with_the_steps_that_it_takes_itself(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "trunk", 800, "fp32")
    whole, fork = (plan(make_config(tmp_path, **more)) for more in ({}, {"fork": source}))
    assert [stage["steps"] for stage in whole["stages"]] == [600, 400]
    assert [stage["steps"] for stage in fork["stages"]] == [200]
    assert fork["run"]["tokens"] == 200 * 512
    assert fork["run"]["tokens_with_forked"] == whole["run"]["tokens"] == 600 * 256 + 400 * 512
    assert fork["flops"]["total"] == pytest.approx(whole["flops"]["total"] * 512 * 200 / whole["run"]["tokens"])
    assert fork["disk"] == whole["disk"] | {"free": fork["disk"]["free"]}
    assert fork["run"]["precision"] == "fp32", "it goes on in what the checkpoint was made in"
    assert whole["run"]["precision"] == "bf16"
    each = whole["time"]["validation_s"] / 5  # at steps 0, 300, 600, 900 and 1,000
    faster = whole["time"]["step_s"][1] / fork["time"]["step_s"][0]
    assert fork["time"]["validation_s"] * faster == pytest.approx(2 * each)


def test_a_fork_of_a_step_that_is_still_to_come_is_planned_and_says_so(tmp_path: Path) -> None:
    found = plan(make_config(tmp_path, fork={"source": str(tmp_path / "trunk"), "step": 500}))
    assert [stage["steps"] for stage in found["stages"]] == [100, 400]
    assert any("planned as if it were there" in note for note in found["notes"])


def test_a_fork_that_has_begun_is_planned_from_its_own_checkpoint_once_its_beginning_is_gone(tmp_path: Path) -> None:
    source, run = str(tmp_path / "trunk"), tmp_path / "t" / "train-1"
    origin = Origin(run="trunk", checkpoint=f"{source}/checkpoints/{checkpoint_name(800, 1)}", step=800, sha256="a")
    make_checkpoint(run, 900, "fp32")
    (run / FORK).write_bytes(origin.to_json())
    begun = find_beginning(make_config(tmp_path, fork=source))
    assert (begun.step, begun.precision, begun.notes) == (800, "fp32", ())
    shutil.rmtree(run / "checkpoints")
    (run / MANIFEST).touch()
    begun = find_beginning(make_config(tmp_path, fork=source))
    assert (begun.step, begun.precision) == (800, "auto")
    assert "its precision is not known" in begun.notes[0]


def test_a_fork_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint to fork from"):
        plan(make_config(tmp_path, fork=str(tmp_path / "trunk")))
    with pytest.raises(ConfigError, match=r"go on at step 1,000, and ends at step 1,000"):
        plan(make_config(tmp_path, fork=make_checkpoint(tmp_path / "trunk", STEPS, "fp32")))


@pytest.mark.parametrize(
    ("device", "asked", "chosen"),
    [("v100", "auto", "fp32"), ("t4", "auto", "fp32"), ("t4", "fp16", "fp16"), ("a100", "auto", "bf16")],
)
def test_a_named_gpu_is_planned_with_the_precision_that_a_run_on_it_takes(
    tmp_path: Path, device: str, asked: str, chosen: str
) -> None:
    config = make_config(tmp_path, precision=asked)
    assert choose_precision(config, find_machines(config, device)) == chosen


@pytest.mark.parametrize(("device", "asked"), [("v100", "bf16"), ("t4", "fp8"), ("a100", "fp8")])
def test_a_precision_that_a_named_gpu_lacks_is_refused(tmp_path: Path, device: str, asked: str) -> None:
    config = make_config(tmp_path, precision=asked)
    with pytest.raises(SetupError, match=rf"{device.upper()} has compute capability [78]\.\d"):
        choose_precision(config, find_machines(config, device))


@pytest.mark.parametrize(("device", "here"), [("l4", 1), ("l40s", 2), ("v100", 0)])
def test_only_gpus_of_the_kind_that_is_named_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, here: int
) -> None:
    local = ["NVIDIA L4", "NVIDIA L40S", "NVIDIA L40S", "NVIDIA L40", "Tesla V100S-PCIE-32GB"]
    monkeypatch.setattr(machines, "has_gpu", lambda: True)
    monkeypatch.setattr(machines, "_local_gpus", lambda: local)
    assert find_machines(make_config(tmp_path), device).here == here


def test_fp32_is_priced_by_its_own_peak() -> None:
    v100 = find_device("v100")
    assert v100.flops("fp16", mfu=0.5) == 0.5 * 125e12
    assert v100.flops("fp32", mfu=0.5) == 0.5 * 15.7e12


def test_every_gpu_whose_peak_is_known_can_be_planned_for() -> None:
    assert [find_device(name).name for name in PEAK_FLOPS] == list(PEAK_FLOPS)
    assert find_device("GH200").memory_bytes == 96e9


@pytest.mark.parametrize(
    ("more", "begun", "kept"),
    [
        ({}, 0, 4),
        ({"checkpoint": {"best": None, "keep_last": 3}}, 0, 4),
        ({"schedule": {"kind": "wsd", "decay_frac": 0.2}}, 0, 5),
        ({"schedule": {"kind": "wsd", "decay_frac": 0.2}}, 800, 4),
        ({"schedule": {"kind": "wsd"}, "checkpoint": {"stable": False}}, 0, 4),
        ({"guards": {"spikes": {"action": "rollback"}}}, 0, 5),
    ],
)
def test_all_checkpoints_that_are_kept_at_a_time_are_counted(more: dict[str, Any], begun: int, kept: int) -> None:
    config = TrainConfig.model_validate({"max_steps": STEPS} | more)
    assert kept_checkpoints(config, begun, STEPS) == kept
