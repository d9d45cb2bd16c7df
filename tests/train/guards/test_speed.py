from rayllm.train.guards.speed import SpeedGuard


def test_a_slow_stretch_is_reported_once_and_its_end_too() -> None:
    guard = SpeedGuard(0.5)
    said = [guard.look(speed) for speed in [1000, 1100, 900, 1000, 1050, 400, 300, 450, 410, 990, 1000]]
    assert [number for number, line in enumerate(said) if line] == [7, 9]
    assert said[7] == "training has become slow: 450 tokens/s, 45% of the median"
    assert said[9] == "training is at its usual speed again: 990 tokens/s"


def test_a_long_slow_stretch_does_not_become_normal() -> None:
    guard = SpeedGuard(0.5)
    for _ in range(10):
        guard.look(1000)
    assert sum(bool(guard.look(300)) for _ in range(100)) == 1
    assert guard.look(900)


def test_single_slow_readings_are_no_stretch() -> None:
    guard = SpeedGuard(0.5)
    assert not any(guard.look(speed) for speed in [1000] * 6 + [100, 100, 1000] * 5)


def test_nothing_is_said_before_the_usual_speed_is_known_or_where_it_is_off() -> None:
    assert not any(SpeedGuard(0.5).look(speed) for speed in [1000, 1, 1, 1, 1])
    off = SpeedGuard(0.0)
    assert not any(off.look(speed) for speed in [1000] * 10 + [1] * 10)
