import pytest
import torch

from rayllm.train import metrics
from rayllm.train.metrics import Speedometer, peak_flops


class Clock:
    """Stands in for ``time`` in the module under test."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics, "time", clock)
    return clock


def test_speed_is_tokens_over_time_since_the_last_reading(clock: Clock) -> None:
    speed = Speedometer(lambda _: 6.0, None)
    speed.count(100, 2, 64)
    speed.count(300, 6, 64)
    clock.now += 2.0
    assert speed.read() == {"tokens_per_s": 200.0, "step_s": 1.0, "mfu": None}
    speed.count(50, 1, 64)
    clock.now += 0.5
    assert speed.read() == {"tokens_per_s": 100.0, "step_s": 0.5, "mfu": None}


def test_time_spent_on_other_things_does_not_count(clock: Clock) -> None:
    speed = Speedometer(lambda _: 6.0, None)
    speed.count(100, 2, 64)
    clock.now += 1.0
    clock.now += 9.0  # a validation
    speed.pause(9.0)
    assert speed.read()["tokens_per_s"] == 100.0


def test_mfu_is_the_share_of_the_peak_by_whole_rows_of_each_length(clock: Clock) -> None:
    speed = Speedometer({32: 5e6, 64: 6e6}.__getitem__, peak=1.2e9)
    speed.count(10, 2, 32)  # most of it masked
    speed.count(128, 2, 64)
    clock.now += 2.0
    assert speed.read()["mfu"] == pytest.approx((64 * 5e6 + 128 * 6e6) / 2.0 / 1.2e9)
    assert speed.row_tokens_per_s == 96.0


def test_a_reading_without_steps_or_time_is_finite(clock: Clock) -> None:
    found = Speedometer(lambda _: 1.0, 1.0).read()
    assert found["tokens_per_s"] == 0.0
    assert found["mfu"] == 0.0


def test_the_peak_is_known_by_the_device_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_flops(torch.device("cpu")) is None
    for name, peak in (
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("NVIDIA L40S", 362e12),
        ("Tesla V100-SXM2-32GB", 125e12),
        ("Tesla V100S-PCIE-32GB", 130e12),
        ("Tesla T4", 65e12),
        ("Some Other Card", None),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(torch.device("cuda")) == peak, name
