"""Fixtures for all tests: the shared real data, and one small Ray for the tests that need a real one."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import fault_table
import figures
import hypothesis
import pytest
from jaxtyping import install_import_hook

# Before anything imports torch: tests run beside each other and fork ranks, so threads of their own only wait there.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before any test imports them: shapes and dtypes in the signatures of these packages are checked at every call.
install_import_hook(["rayllm.model", "rayllm.inference"], "beartype.beartype")

# How long an example takes says nothing on a machine that others use too.
hypothesis.settings.register_profile("rayllm", deadline=None)
hypothesis.settings.load_profile("rayllm")

REPO = Path(__file__).resolve().parents[1]

#: Set before Ray starts, so that its workers inherit them. Threads are fixed because bit-identity depends on them.
RAY_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "TORCHDYNAMO_DISABLE": "1",
    "WANDB_MODE": "offline",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on Ray come last: others fork, which is safe only while this process has no Ray."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is not None)
    fault_table.declare(items)


def pytest_collection_finish() -> None:
    """What was imported and collected lives as long as the session: no collection of garbage looks through it."""
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of faults that the tests injected, and those of what they measured."""
    called = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
    ]
    if lines := fault_table.render(fault_table.collect(called)):
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)
    for title, rows in sorted(figures.collect(called).items()):
        terminalreporter.section(title)
        for line in figures.render(rows):
            terminalreporter.write_line(line)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> figures.Tell:
    """Shows what the test measured, in a table after the tests: ``tell("title", column="text")``."""
    return figures.teller(request.node)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data; the tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("RAYLLM_TEST_DATA") or REPO.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"shared test data absent: {folder} (set RAYLLM_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def ray_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One local Ray with two CPUs for the whole session; a cluster already on the machine is never joined."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(_token_file(tmp_path_factory.mktemp("ray-auth"))))
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def _token_file(directory: Path) -> Path:
    """A token of the session's own: nothing is read from, or left in, the user's home."""
    path = directory / "token"
    path.write_text("rayllm-tests-0123456789abcdef0123456789abcdef")
    return path
