"""Any ZeRO stage on any number of ranks goes on from what any other wrote, when the ranks that wrote it are gone.

In the default run 16 cases of an orthogonal array: every pair of values of the five factors (stage and number of ranks
that wrote, stage and number that read, optimiser) occurs in one of them. All 768 cases are slow.

Source of the array: Bose and Bush 1952, Orthogonal arrays of strength two and three, section 2: over the field of four
elements, the columns a, b, a+b, a+2b, a+3b.
"""

import shutil
from itertools import combinations, product
from pathlib import Path

import pytest
from ranks import run_ranks, small_config, train_small

from rayllm.optim.config import MuonConfig
from rayllm.train.config import TrainConfig

STAGES, WORLDS = (0, 1, 2, 3), (1, 2, 3, 4)
#: Largest difference of a loss from that of one unbroken rank, in float32; Muon's iteration is bf16 by default.
TOLERANCE = {"adamw": 1e-5, "muon": 1e-3, "muon-fp32": 1e-5}
#: A product by row and column in the field of four elements, whose sum is the exclusive or.
TIMES = ((0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2))
OPTIMIZERS = ("adamw", "muon-fp32", "muon", "adamw")

Case = tuple[int, int, int, int, str]
CASES: list[Case] = [
    (STAGES[a], WORLDS[b], STAGES[a ^ b], WORLDS[a ^ TIMES[2][b]], OPTIMIZERS[a ^ TIMES[3][b]])
    for a, b in product(range(4), repeat=2)
]


def config_of(optimizer: str) -> TrainConfig:
    """Six rows a step: four ranks share them unevenly."""
    if optimizer == "adamw":
        return small_config(global_batch_tokens=192)
    dtype = "fp32" if optimizer == "muon-fp32" else "bf16"
    muon = MuonConfig(lr=3e-3, ns_dtype=dtype, momentum_warmup_steps=4)
    return small_config(global_batch_tokens=192, optimizer=muon)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, float]]:
    """Losses of one rank with the plain engine, never interrupted."""
    root = tmp_path_factory.mktemp("straight")
    return {
        name: run_ranks(train_small, 1, str(root / name), "torch", 0, config_of(name))[0]["losses"]
        for name in TOLERANCE
    }


def largest_gap(
    directory: Path, engine: tuple[str, int], world: int, optimizer: str, losses: dict[int, float]
) -> float:
    """Go on from step 3 and compare the losses of the steps after it."""
    found = run_ranks(train_small, world, str(directory), *engine, config_of(optimizer))[0]
    assert found["resumed"].endswith("step-00000003-a1")
    return max(abs(found["losses"][step] - losses[step]) for step in (4, 5, 6))


@pytest.mark.fault(
    "P2", "all ranks gone; another stage, another number of ranks", "losses of one rank, within tolerance"
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_another_stage_and_world_size_go_on_from_the_same_state(
    case: Case, straight: dict[str, dict[int, float]], tmp_path: Path
) -> None:
    stage, world, new_stage, new_world, optimizer = case
    run_ranks(train_small, world, str(tmp_path), "deepspeed", stage, config_of(optimizer), "fp32", 3)
    gap = largest_gap(tmp_path, ("deepspeed", new_stage), new_world, optimizer, straight[optimizer])
    assert gap < TOLERANCE[optimizer], f"largest gap {gap:.2e}"


def test_every_pair_of_values_is_in_one_of_the_cases() -> None:
    for left, right in combinations(range(5), 2):
        values = [sorted({case[factor] for case in CASES}, key=str) for factor in (left, right)]
        assert {(case[left], case[right]) for case in CASES} == set(product(*values))


@pytest.mark.fault("P2", "the run goes on with the other engine", "losses of one rank, within tolerance")
@pytest.mark.parametrize(
    ("engines", "optimizer"),
    [
        ((("deepspeed", 2), ("torch", 0)), "adamw"),
        ((("torch", 0), ("deepspeed", 1)), "muon-fp32"),
        pytest.param((("deepspeed", 2), ("torch", 0)), "muon-fp32", marks=pytest.mark.slow),
        pytest.param((("torch", 0), ("deepspeed", 1)), "adamw", marks=pytest.mark.slow),
    ],
)
def test_the_plain_engine_reads_what_zero_wrote_and_the_other_way(
    engines: tuple[tuple[str, int], tuple[str, int]],
    optimizer: str,
    straight: dict[str, dict[int, float]],
    tmp_path: Path,
) -> None:
    wrote, reads = engines
    run_ranks(train_small, 2, str(tmp_path), *wrote, config_of(optimizer), "fp32", 3)
    assert largest_gap(tmp_path, reads, 1, optimizer, straight[optimizer]) < TOLERANCE[optimizer]


@pytest.mark.slow
@pytest.mark.fault(
    "P2", "the same, every stage and number of ranks to every other", "losses of one rank, within tolerance"
)
@pytest.mark.parametrize("optimizer", TOLERANCE)
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_and_world_size_reads_every_other(
    stage: int, world: int, optimizer: str, straight: dict[str, dict[int, float]], tmp_path: Path
) -> None:
    run_ranks(train_small, world, str(tmp_path / "wrote"), "deepspeed", stage, config_of(optimizer), "fp32", 3)
    for new_stage, new_world in product(STAGES, WORLDS):
        directory = tmp_path / f"{new_stage}-{new_world}"
        shutil.copytree(tmp_path / "wrote", directory)
        gap = largest_gap(directory, ("deepspeed", new_stage), new_world, optimizer, straight[optimizer])
        assert gap < TOLERANCE[optimizer], f"stage {new_stage} on {new_world} ranks: largest gap {gap:.2e}"
