import os
import signal
from collections.abc import Callable, Iterator

import pytest

from rayllm.core import faults
from rayllm.core.faults import fault

Arm = Callable[[str], None]


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Arm]:
    """Sets the faults of this process."""

    def set_specs(text: str) -> None:
        monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
        monkeypatch.setenv("RAYLLM_FAULT", text)
        faults._specs.cache_clear()

    yield set_specs
    monkeypatch.undo()
    faults._specs.cache_clear()


def test_nothing_breaks_unless_faults_are_allowed(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    arm("step=full_disk")
    monkeypatch.delenv("RAYLLM_ALLOW_FAULTS")
    faults._specs.cache_clear()
    assert fault("step", 1) == ""


def test_a_fault_happens_at_its_point_number_and_attempt_only(arm: Arm) -> None:
    arm("step:7@2=nan")
    assert fault("step", 7, 2) == "nan"
    assert fault("step", 7, 1) == ""
    assert fault("step", 8, 2) == ""
    assert fault("save.staged", 7, 2) == ""


def test_number_and_attempt_may_be_left_out(arm: Arm) -> None:
    arm("a=nan, b:3=nan, c@2=nan")
    assert fault("a", 5, 9) == "nan"
    assert (fault("b", 3, 9), fault("b", 4, 9)) == ("nan", "")
    assert (fault("c", 9, 2), fault("c", 9, 3)) == ("nan", "")


def test_one_point_may_break_several_times(arm: Arm) -> None:
    arm("step:2=nan,step:4=nan")
    assert [fault("step", number) for number in range(1, 6)] == ["", "nan", "", "nan", ""]


def test_a_full_disk_is_what_the_system_would_say(arm: Arm) -> None:
    arm("save.write=full_disk")
    with pytest.raises(OSError, match="No space left") as caught:
        fault("save.write", 1)
    assert caught.value.errno == 28


def test_kill_leaves_no_time_for_cleaning_up(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    arm("step:1=kill")
    fault("step", 1)
    assert sent == [(os.getpid(), signal.SIGKILL)]


@pytest.mark.parametrize("text", ["step", "step:=nan", "step:x=nan", "=nan", "step:1=", "step=nan;b=nan"])
def test_a_malformed_fault_is_refused_so_that_no_test_passes_by_mistake(arm: Arm, text: str) -> None:
    arm(text)
    with pytest.raises(ValueError, match="RAYLLM_FAULT"):
        fault("step", 1)
