"""Optimiser state and parameters in the host's memory: the same training, the same checkpoints.

Where the device is a CPU its memory is the host's, so what is seen here is ZeRO's offloading code, not pinned copies.
"""

from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks, small_config, train_small

from rayllm.optim.config import MuonConfig
from rayllm.train.config import EngineConfig, TrainConfig

OPTIMIZER = {"offload_optimizer": True}
PARAMETERS = {"offload_parameters": True}
BOTH = OPTIMIZER | PARAMETERS
#: ZeRO stage and what is offloaded.
CASES = {"1": (1, OPTIMIZER), "2": (2, OPTIMIZER), "3": (3, OPTIMIZER), "3p": (3, PARAMETERS), "3op": (3, BOTH)}
RESUMED = ("2", "3op")
Results = list[dict[str, Any]]


def offloading(stage: int, offload: dict[str, bool], **changes: Any) -> TrainConfig:
    return small_config(engine=EngineConfig(zero_stage=stage, **offload), **changes)


def train_all(directory: str) -> dict[str, Any]:
    """All cases in one process: engines that offload do not disturb others."""
    _refuse_to_compile()
    muon = {"optimizer": MuonConfig(lr=3e-3, ns_dtype="fp32")}
    found = {}
    for name, changes in (("adamw", {}), ("muon", muon)):
        found[name] = train_small(f"{directory}/{name}", "deepspeed", 1, small_config(**changes))
        for case, (stage, offload) in CASES.items() if name == "adamw" else [(case, CASES[case]) for case in RESUMED]:
            config = offloading(stage, offload, **changes)
            found[f"{name}-{case}"] = train_small(f"{directory}/{name}-{case}", "deepspeed", stage, config)
    return found


def _refuse_to_compile() -> None:
    """DeepSpeed's own way of offloading wants an Adam that it compiles on first use."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    def refuse(builder: OpBuilder, *_: object, **__: object) -> None:
        raise AssertionError(f"{builder.name} would be compiled")

    OpBuilder.jit_load = refuse  # pyright: ignore[reportAttributeAccessIssue] - in a fork of its own


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_ranks(train_all, 2, str(tmp_path_factory.mktemp("all")))


def largest_gap(left: dict[int, float], right: dict[int, float]) -> float:
    assert left.keys() == right.keys()
    return max(abs(left[step] - right[step]) for step in left)


@pytest.mark.parametrize(
    ("optimizer", "case"), [*(("adamw", case) for case in CASES), *(("muon", case) for case in RESUMED)]
)
def test_losses_are_those_without_offloading(optimizer: str, case: str, trained: Results) -> None:
    plain, found = trained[0][optimizer], trained[0][f"{optimizer}-{case}"]
    assert largest_gap(found["losses"], plain["losses"]) < 1e-6
    assert largest_gap(found["norms"], plain["norms"]) < 1e-5
    other = trained[1][f"{optimizer}-{case}"]["weights"]
    assert all(found["weights"][name].equal(other[name]) for name in other)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two ranks that stopped after three of six steps."""
    directory = tmp_path_factory.mktemp("halves")
    run_ranks(train_each, 2, str(directory), 3)
    return directory


def train_each(directory: str, stop_at: int) -> dict[str, Any]:
    return {
        case: train_small(f"{directory}/{case}", "deepspeed", CASES[case][0], offloading(*CASES[case]), "fp32", stop_at)
        for case in RESUMED
    }


def test_resume_is_bit_identical_and_a_rank_alone_goes_on_without_offloading(halves: Path, trained: Results) -> None:
    for case in RESUMED:
        alone = run_ranks(train_small, 1, f"{halves}/{case}", "torch", 0, small_config(max_steps=4))[0]
        assert "step-00000003" in alone["resumed"]
        assert abs(alone["losses"][4] - trained[0]["adamw"]["losses"][4]) < 1e-5
        _remove(halves / case / "checkpoints" / "step-00000004-a1")
    second = run_ranks(train_each, 2, str(halves), 0)
    for rank in range(2):
        for case in RESUMED:
            straight, found = trained[rank][f"adamw-{case}"], second[rank][case]
            assert "step-00000003" in found["resumed"]
            for kind in ("weights", "slices"):
                assert straight[kind].keys() == found[kind].keys()
                assert all(found[kind][key].equal(straight[kind][key]) for key in found[kind])


def _remove(directory: Path) -> None:
    import shutil

    shutil.rmtree(directory)


def test_offloading_goes_on_from_a_checkpoint_that_knows_nothing_of_it(tmp_path: Path, trained: Results) -> None:
    run_ranks(train_small, 1, str(tmp_path), "torch", 0, small_config(), "fp32", 3)
    found = run_ranks(train_small, 2, str(tmp_path), "deepspeed", 3, offloading(3, BOTH))[0]
    expected = {step: trained[0]["adamw"]["losses"][step] for step in (4, 5, 6)}
    assert largest_gap(found["losses"], expected) < 1e-5


def test_a_step_that_is_not_finite_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:3=nan")
    for result in run_ranks(train_each, 2, str(tmp_path), 0):
        for case in RESUMED:
            assert result[case]["state"]["optimizer_steps"] == 5
            assert all(tensor.isfinite().all() for tensor in result[case]["weights"].values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"offload_optimizer": True, "zero_stage": 0}, "zero_stage 0 .* `train.engine.zero_stage` to 1 or more"),
        ({"offload_parameters": True, "zero_stage": 2}, "zero_stage 2 .* `train.engine.zero_stage` to 3 "),
        ({"offload_optimizer": True, "kind": "torch"}, "kind torch .* `train.engine.kind: deepspeed`"),
    ],
)
def test_offloading_what_is_not_sharded_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig(**values)
