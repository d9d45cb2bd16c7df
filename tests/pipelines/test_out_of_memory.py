"""A failed allocation ends the run with what it needs, what takes most, and what to change."""

import resource
from pathlib import Path

import psutil
import pytest
import torch
from packing_fixture import make_packed
from ranks import run_ranks
from small_session import all_records, forked_run, make_config

from rayllm.core.errors import RunFailed
from rayllm.pipelines.train import preflight
from rayllm.pipelines.train.crew.failures import Cause
from rayllm.pipelines.train.job import Job
from rayllm.pipelines.train.needs import with_needs
from rayllm.pipelines.train.out_of_memory import is_out_of_memory, memory_named
from rayllm.train.memory.setting import Setting
from rayllm.train.memory.trace import Shape
from tests.train.memory.test_estimate import MODEL, setting


def wide() -> Setting:
    model = MODEL.model_copy(update={"vocab_size": 32_768})
    return setting(model=model, shape=Shape(16, 256, "fp32", "none", document_mask=True))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
)
def test_the_message_has_the_estimate_the_biggest_term_and_three_changes(error):
    with pytest.raises(RunFailed) as caught, memory_named(wide(), rank=1):
        raise error
    text = str(caught.value)
    assert "out of memory" in text
    assert "rank 1" in text
    assert "a rank needs about" in caught.value.why
    assert "takes most" in caught.value.fix
    assert caught.value.fix.count("(saves ") == 3
    assert "train.micro_batch_size=8" in caught.value.fix


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shapes"), memory_named(wide(), rank=0):
        raise RuntimeError("shapes do not match")


def test_an_allocation_that_the_system_refuses_is_known():
    """The process may grow by 200 MB; torch's allocator says no in its own words."""
    assert run_ranks(_refused, 1) == [True]


def _refused() -> bool:
    size = psutil.Process().memory_info().vms + 200_000_000
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    try:
        torch.empty(10**9)
    except RuntimeError as error:
        return is_out_of_memory(error)
    return False


@pytest.fixture(scope="module")
def packed_uri(tmp_path_factory) -> str:
    return make_packed(tmp_path_factory.mktemp("packed"), count=80).uri


def test_a_run_that_meets_it_in_a_step_ends_with_the_advice(tmp_path, packed_uri, monkeypatch):
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:3=out_of_memory")
    config = make_config(tmp_path, engine={"kind": "torch"})
    with pytest.raises(AssertionError, match=r"out of memory\n  where: rank 0\n  why:   a rank needs about"):
        run_ranks(forked_run, 1, config, packed_uri, str(tmp_path / "run"))


def short_of_everything(config, packed_uri: str, directory: str) -> None:
    preflight.memory_of = lambda _: 100_000_000
    preflight.shutil.disk_usage = lambda _: type("Usage", (), {"free": 1})
    forked_run(config, packed_uri, directory)


def test_a_run_on_too_small_a_machine_is_warned_of_memory_and_disk_and_goes_on(tmp_path: Path, packed_uri):
    config = make_config(tmp_path, engine={"kind": "torch"}, max_steps=2)
    run_ranks(short_of_everything, 1, config, packed_uri, str(tmp_path / "run"))
    events = all_records(str(tmp_path / "run"), "event")
    said = [record["message"] for record in events if record["level"] == "warning"]
    assert any("a rank of this run needs about" in message and "takes most" in message for message in said)
    assert any("4 checkpoints in" in message for message in said)


def test_a_worker_that_died_without_a_word_gets_the_same_advice(tmp_path, packed_uri):
    config = make_config(tmp_path, engine={"kind": "torch"}, max_steps=2)
    run_ranks(forked_run, 1, config, packed_uri, str(tmp_path / "run"))
    job = Job(config, packed_uri, str(tmp_path / "run"))
    found = with_needs(Cause("rank 0 died without a word", why="killed", memory=True), job)
    assert found.why.startswith("killed; a rank needs about")
    assert "takes most" in found.fix
    bug = Cause("rank 0: ValueError")
    assert with_needs(bug, job) == bug
