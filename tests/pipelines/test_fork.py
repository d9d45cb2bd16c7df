"""Runs that go on from a checkpoint of another run: the same where nothing differs, refused where too much does."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from packing_fixture import make_packed
from parent_run import PARENT, train_run, weights
from small_session import all_records, make_config, records

from rayllm.core.artifact import MANIFEST, Artifact
from rayllm.core.checkpoint import COMMIT, checkpoint_name, list_checkpoints, set_aside
from rayllm.core.errors import ArtifactDamaged, ConfigError, DataError
from rayllm.core.fork_config import ForkConfig
from rayllm.data.mixing.plan import Plan
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines import train
from rayllm.pipelines.train.fork import fork_fingerprint, load_fork
from rayllm.pipelines.train.fork_origin import FORK


def fork(root: Path, source: Path | str, step: int | str = "last", **changes: Any) -> train.Config:
    return make_config(root, **PARENT | {"fork": {"source": str(source), "step": step}} | changes)


def losses(run: Path) -> dict[int, float]:
    return {step: record["loss"] for step, record in records(str(run), "train").items()}


def digest(directory: Path) -> str:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()


def plan_of(run: Path) -> Plan:
    return Plan.from_json((run / "plan.json").read_text())


@pytest.mark.parametrize("step", [0, 4, "stable"])
def test_a_fork_without_changes_is_the_parents_continuation_bit_for_bit(
    step: int | str, parent: Path, parent_data: Artifact, tmp_path: Path
) -> None:
    before = digest(parent)
    run = train_run(fork(tmp_path, parent, step), parent_data)
    first = {0: 0, 4: 4, "stable": 8}[step]
    assert losses(run) == {at: loss for at, loss in losses(parent).items() if at > first}
    assert weights(run) == weights(parent)
    assert plan_of(run) == plan_of(parent)
    assert digest(parent) == before


def test_another_learning_rate_and_mixture_count_from_the_forks_first_step(
    parent: Path, parent_data: Artifact, tmp_path: Path
) -> None:
    config = fork(tmp_path, parent, 4, optimizer={"lr": 1e-3}, max_steps=16)
    config = config.model_copy(
        update={"mixture": config.mixture.model_copy(update={"weights": {"code": 3, "math": 1}})}
    )
    run = train_run(config, parent_data)
    found = records(str(run), "train")
    assert list(found) == list(range(5, 17))
    assert found[5]["lr"] == pytest.approx(1e-3)
    assert [(row.steps, row.weights) for row in plan_of(run).stages] == [(4, (512, 512)), (12, (768, 256))]
    tokens = {name: found[16][f"tokens/{name}"] for name in ("code", "math")}
    assert tokens["code"] / tokens["math"] == pytest.approx((4 * 8 + 12 * 12) / (4 * 8 + 12 * 4), rel=0.05)


def test_another_seed_reads_what_is_left_in_another_order(parent: Path, parent_data: Artifact, tmp_path: Path) -> None:
    config = fork(tmp_path, parent, 4)
    run = train_run(config.model_copy(update={"seed": 5}), parent_data)
    assert [(row.steps, row.shuffle) for row in plan_of(run).stages] == [(4, None), (8, 5)]
    assert losses(run)[5] != losses(parent)[5]
    assert losses(run) == pytest.approx({at: loss for at, loss in losses(parent).items() if at > 4}, rel=0.2)


def test_a_fork_of_any_sharding_goes_on_with_the_same_batches(
    parent_data: Artifact, parent: Path, tmp_path: Path
) -> None:
    run = train_run(fork(tmp_path, parent, 8, engine={"kind": "deepspeed", "zero_stage": 3}), parent_data, ranks=2)
    assert losses(run) == pytest.approx({at: loss for at, loss in losses(parent).items() if at > 8}, rel=1e-4)


def test_an_interrupted_fork_resumes_without_its_parent(parent: Path, parent_data: Artifact, tmp_path: Path) -> None:
    source = tmp_path / "parent"
    shutil.copytree(parent, source)
    config = fork(tmp_path, source, 4, max_steps=14)
    run = train_run(config, parent_data)
    straight = losses(run), weights(run)
    for ref in list_checkpoints(str(run / "checkpoints"))[1:]:
        shutil.rmtree(ref.uri)
    shutil.rmtree(source)
    train_run(config, parent_data)
    assert (losses(run), weights(run)) == straight
    assert json.loads((run / "fork.json").read_text())["step"] == 4
    said = " ".join(record["message"] for record in all_records(str(run), "event"))
    assert "forked from t at step 4" in said
    assert "resumed from" in said


def test_a_fork_that_has_begun_is_the_same_run_when_its_beginning_is_gone(
    parent: Path, parent_data: Artifact, tmp_path: Path
) -> None:
    source = tmp_path / "parent"
    shutil.copytree(parent, source)
    pruned, last = fork(tmp_path, source, 4, max_steps=14), fork(tmp_path, source, max_steps=14)
    before = [train.fingerprint(config) for config in (pruned, last)]
    note(tmp_path / "t" / "train-1", pruned, parent_data)
    shutil.rmtree(list_checkpoints(str(source / "checkpoints"))[0].uri)
    train.check(pruned)
    assert [train.fingerprint(config) for config in (pruned, last)] == before
    shutil.rmtree(source)
    train.check(pruned)
    assert train.fingerprint(pruned) == before[0]
    for unknown in (fork(tmp_path, source, 8), fork(tmp_path, tmp_path / "other", 4)):
        with pytest.raises(ConfigError, match="there is no checkpoint to fork from"):
            train.check(unknown)


def test_of_several_beginnings_that_are_gone_none_is_guessed(
    parent: Path, parent_data: Artifact, tmp_path: Path
) -> None:
    source = tmp_path / "parent"
    shutil.copytree(parent, source)
    for number, step in enumerate((4, 8)):
        note(tmp_path / "t" / f"train-{number}", fork(tmp_path, source, step, max_steps=14), parent_data)
    shutil.rmtree(source)
    train.check(fork(tmp_path, source, 8))
    with pytest.raises(ConfigError, match="there is no checkpoint to fork from"):
        train.check(fork(tmp_path, source))


def note(directory: Path, config: train.Config, packed: Artifact) -> None:
    """Leave what the first start of a fork leaves, and that it has saved."""
    forked = load_fork(config, PackedData.open(packed.uri), "")
    assert forked is not None
    saved = directory / "checkpoints" / checkpoint_name(13, 1)
    saved.mkdir(parents=True)
    (saved / COMMIT).touch()
    (directory / FORK).write_bytes(forked.origin.to_json())


def test_a_fork_whose_beginning_is_gone_goes_on_but_does_not_begin(
    parent: Path, parent_data: Artifact, tmp_path: Path
) -> None:
    source, run = tmp_path / "parent", tmp_path / "t" / "train-1"
    shutil.copytree(parent, source)
    config = fork(tmp_path, source, max_steps=14)
    note(run, config, parent_data)
    train.check_forced(config)
    shutil.rmtree(source)
    train.check(config)
    with pytest.raises(ConfigError, match=r"it cannot begin again(.|\n)*leave out --force"):
        train.check_forced(config)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ConfigError, match="there is no checkpoint to fork from"):
        train.check(config)
    (run / MANIFEST).touch()  # finished: there is nothing to begin
    train.check(config)


@pytest.mark.parametrize(
    ("text", "said"), [('{"run": "base", "seed": 1}', "checkpoint: Field required.*seed: Extra"), ("{", "Invalid JSON")]
)
def test_a_note_from_another_version_is_told(text: str, said: str, parent_data: Artifact, tmp_path: Path) -> None:
    (tmp_path / FORK).write_text(text)
    with pytest.raises(ArtifactDamaged) as told:
        load_fork(fork(tmp_path, "gone"), PackedData.open(parent_data.uri), str(tmp_path))
    assert told.value.where.endswith(FORK)
    assert re.search(said, told.value.why)


def test_a_fork_of_a_fork_goes_on_in_its_table(parent: Path, parent_data: Artifact, tmp_path: Path) -> None:
    def reweighted(config: train.Config) -> train.Config:
        mixture = config.mixture.model_copy(update={"weights": {"code": 3, "math": 1}})
        return config.model_copy(update={"mixture": mixture})

    first = train_run(reweighted(fork(tmp_path / "a", parent, 4)), parent_data)
    second = train_run(reweighted(fork(tmp_path / "b", first, 8)), parent_data)
    assert plan_of(second) == plan_of(first)
    assert weights(second) == weights(first)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": {"kind": "muon"}}, "train.optimizer.kind: muon here, adamw there"),
        ({"document_mask": False}, "train.document_mask: False here, True there"),
        ({"precision": "bf16"}, "train.precision: bf16 here, fp32 there"),
    ],
)
def test_what_a_fork_may_not_change_is_named_with_both_values(
    changes: dict[str, Any], said: str, parent: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        train.check(fork(tmp_path, parent, **changes))


def test_another_model_is_refused(parent: Path, tmp_path: Path) -> None:
    config = fork(tmp_path, parent)
    with pytest.raises(ConfigError, match=r"model\.dim: 64 here, 32 there"):
        train.check(config.model_copy(update={"model": config.model.model_copy(update={"dim": 64})}))


def begin(config: train.Config, packed: Artifact) -> None:
    from rayllm.pipelines.train.planning import plan_packed

    data = PackedData.open(packed.uri)
    plan_packed(config, data, load_fork(config, data, ""))


def test_other_data_and_budgets_that_are_spent_are_refused(parent: Path, parent_data: Artifact, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="other data"):
        begin(fork(tmp_path, parent), make_packed(tmp_path / "other", count=110))
    with pytest.raises(ConfigError, match="go on at step 12, and ends at step 12"):
        begin(fork(tmp_path, parent), parent_data)
    with pytest.raises(ConfigError, match=r"a budget in tokens cannot be kept"):
        begin(fork(tmp_path, parent, 4, max_steps=None, tokens=65536, global_batch_tokens=2048), parent_data)


def test_steps_without_a_checkpoint_and_runs_without_a_stable_part_are_refused(
    parent: Path, parent_data: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="those of steps 4, 8, 12"):
        train.check(fork(tmp_path, parent, 5))
    with pytest.raises(ConfigError, match="there is no checkpoint to fork from"):
        train.check(fork(tmp_path, tmp_path / "none"))
    other = train_run(
        make_config(tmp_path / "cosine", **PARENT | {"schedule": {"kind": "cosine"}, "max_steps": 2}), parent_data
    )
    with pytest.raises(ConfigError, match="no stable part"):
        train.check(fork(tmp_path, other, "stable"))


def test_checkpoints_that_are_set_aside_are_named_where_one_is_missed(parent: Path, tmp_path: Path) -> None:
    source = tmp_path / "parent"
    shutil.copytree(parent, source)
    first, *others = list_checkpoints(str(source / "checkpoints"))
    for ref in others:
        set_aside(ref.uri, "weights changed")
    with pytest.raises(ConfigError, match=r"steps 4; set aside as damaged: those of steps 8, 12 \("):
        train.check(fork(tmp_path, source, 8))
    set_aside(first.uri, "weights changed")
    with pytest.raises(ConfigError, match=r"no checkpoint to fork(.|\n)*damaged: those of steps 4, 8, 12 \("):
        train.check(fork(tmp_path, source))


def test_a_run_that_is_stable_and_then_decays_keeps_the_checkpoint_between(
    parent_data: Artifact, tmp_path: Path
) -> None:
    settings = PARENT | {"checkpoint": {"every_steps": 3, "keep_last": 2}, "max_steps": 15}
    trunk = train_run(make_config(tmp_path / "trunk", **settings), parent_data)
    assert [ref.step for ref in list_checkpoints(str(trunk / "checkpoints"))] == [10, 12, 15]
    run = train_run(fork(tmp_path, trunk, "stable", **settings), parent_data)
    assert (losses(run), weights(run)) == ({at: losses(trunk)[at] for at in range(11, 16)}, weights(trunk))


def test_a_damaged_parent_is_not_loaded(parent: Path, parent_data: Artifact, tmp_path: Path) -> None:
    source = tmp_path / "parent"
    shutil.copytree(parent, source)
    state = Path(list_checkpoints(str(source / "checkpoints"))[-1].uri) / "state" / "rank-00000.safetensors"
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    with pytest.raises(ArtifactDamaged):
        begin(fork(tmp_path, source, max_steps=20), parent_data)


def test_the_identity_of_a_fork_holds_its_parents_checkpoint(parent: Path, tmp_path: Path) -> None:
    steps = {step: fork_fingerprint(fork(tmp_path, parent, step)) for step in (0, 4, 8, 12)}
    assert len(set(steps.values())) == 4
    assert fork_fingerprint(fork(tmp_path, parent)) == steps[12]
    assert train.fingerprint(fork(tmp_path, parent, 8)) == {"fork": steps[8]}


def test_a_text_alone_is_the_source(tmp_path: Path) -> None:
    assert make_config(tmp_path, fork="runs/base").train.fork == ForkConfig(source="runs/base", step="last")
