"""The doctor: every check answers, and what would stop a run makes it fail with a fix."""

import socket
from pathlib import Path

import pytest

from rayllm.commands import doctor


def test_every_check_of_this_machine_finds_something(tmp_path: Path) -> None:
    quick = [check for check in doctor.checks(str(tmp_path)) if "import" not in (check.__doc__ or "")]
    findings = [finding for check in quick for finding in check()]
    assert {"python", "memory", "disk for artifacts", "disk for Ray", "GPUs", "ports"} <= {
        item.name for item in findings
    }
    assert all(finding.seen for finding in findings)


def test_a_failed_import_is_a_line_of_the_table_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    answer, problem = doctor._import("raise ImportError('libfoo.so is missing')")
    assert (answer, problem) == ("", "ImportError: libfoo.so is missing")


def test_deepspeed_imports_here_without_a_compiler_on_the_path() -> None:
    (finding,) = doctor.check_deepspeed()
    assert finding.verdict == "ok", finding


def test_lack_of_disk_fails_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_DISK_BYTES", 1 << 60)
    findings = doctor.check_disk(str(tmp_path / "not" / "there" / "yet"))
    assert [finding.verdict for finding in findings] == ["fail", "fail"]
    assert all(finding.fix for finding in findings)


def test_a_remote_storage_needs_no_local_disk() -> None:
    assert [finding.name for finding in doctor.check_disk("s3://bucket/runs")] == ["disk for Ray"]


def test_taken_ports_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setattr(doctor, "PORTS", {server.getsockname()[1]: "a test"})
        (finding,) = doctor.check_ports()
    assert finding.verdict == "note"
    assert "(a test)" in finding.seen


def test_the_exit_code_says_whether_runs_can_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rayllm.cli import main

    for verdict, code in (("note", 0), ("fail", 3)):
        finding = doctor.Finding("disk", verdict, "little", "free some")
        monkeypatch.setattr(doctor, "checks", lambda _, found=finding: [lambda: [found]])
        assert main(["doctor"]) == code
        assert "free some" in capsys.readouterr().out
