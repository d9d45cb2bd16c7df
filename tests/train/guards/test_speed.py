from rayllm.train.guards.speed import SpeedGuard


def test_a_slow_stretch_is_reported_once_where_it_begins_and_once_where_it_ends() -> None:
    guard = SpeedGuard(0.5)
    said = [guard.look(speed) for speed in [1000, 1100, 900, 1000, 1050, 400, 300, 450, 990, 1000]]
    assert [bool(line) for line in said] == [False] * 5 + [True, False, False, True, False]
    assert said[5] == "training has become slow: 400 tokens/s, 40% of the median"
    assert str(said[8]).startswith("training is at its usual speed again: 990 tokens/s")


def test_a_long_slow_stretch_does_not_become_normal() -> None:
    guard = SpeedGuard(0.5)
    for _ in range(10):
        guard.look(1000)
    assert guard.look(300)
    assert not any(guard.look(300) for _ in range(100))
    assert guard.look(900)


def test_nothing_is_said_before_the_usual_speed_is_known_or_where_it_is_off() -> None:
    assert not any(SpeedGuard(0.5).look(speed) for speed in [1000, 1, 1000, 1])
    off = SpeedGuard(0.0)
    assert not any(off.look(speed) for speed in [1000] * 10 + [1])
