"""Halving by promotion: who goes on, who waits, what fills an empty place; what it comes to in simulated sweeps."""

import heapq
import math
import random
import statistics

import pytest

from rayllm.tune.halving import Halving


def at_rung(halving: Halving, step: int = 10, **values: float) -> None:
    for trial, value in values.items():
        halving.begin(trial)
        halving.report(trial, 0, 9.0, 0.0)
        assert halving.report(trial, step, value, float(step))


def test_a_trial_waits_until_it_is_among_the_best_share_of_its_rung() -> None:
    halving = Halving([10, 30], 90, 3)
    at_rung(halving, a=3.0, b=2.0)
    assert halving.best() is None
    at_rung(halving, c=4.0)
    assert halving.best() == "b"
    halving.promote("b")
    assert (halving.running, halving.waiting, halving.best()) == (1, ["a", "c"], None)
    at_rung(halving, d=1.0, e=5.0)
    assert halving.best() == "d"
    at_rung(halving, f=6.0)
    halving.promote("d")
    assert halving.best() is None


def test_the_highest_rung_comes_first() -> None:
    halving = Halving([10, 30], 90, 2)
    at_rung(halving, a=3.0, b=2.0)
    for trial in ("b", "a"):
        halving.promote(trial)
        assert halving.report(trial, 30, 5.0 if trial == "a" else 6.0, 30.0)
    at_rung(halving, c=1.0, d=8.0)
    assert halving.best() == "a"


def test_a_trial_passes_a_rung_once() -> None:
    halving = Halving([10], 20, 2)
    at_rung(halving, a=1.0, b=2.0)
    halving.promote("a")
    assert not halving.report("a", 10, 1.0, 11.0)  # its first validation where it goes on
    assert not halving.report("a", 20, 0.5, 21.0)
    halving.leave("a", done=True)
    assert halving.best() is None


def test_a_trial_that_failed_is_compared_with_nobody_and_goes_on_where_it_is_tried_again() -> None:
    halving = Halving([10, 30], 90, 2)
    at_rung(halving, a=1.0, b=2.0)
    halving.promote("a")
    halving.report("a", 20, 0.9, 20.0)
    halving.fail("a")
    assert halving.best() is None  # one of one
    assert not halving.begin("a")
    at_rung(halving, c=3.0)
    assert halving.best() is None  # a is back, and has passed
    assert not halving.report("a", 10, 1.0, 40.0)  # a resumed training's first validation
    assert halving.report("a", 30, 0.8, 60.0)


def test_a_trial_that_failed_at_its_rung_comes_to_it_again() -> None:
    halving = Halving([10, 30], 90, 2)
    at_rung(halving, a=1.0, b=2.0)
    halving.fail("a")  # in its save
    assert not halving.begin("a")
    assert halving.report("a", 10, 1.0, 20.0)
    assert halving.best() == "a"


def test_who_runs_from_an_early_step_is_expected_at_the_next_rung() -> None:
    halving = Halving([10, 30], 90, 2)
    at_rung(halving, a=1.0, b=2.0, c=3.0)  # a second a step
    halving.begin("again")  # from a checkpoint, of which nothing is known yet
    halving.report("again", 35, 5.0, 35.0)
    assert halving.filler(now_s=36.0) == "a"  # 54 s are left


def test_an_empty_place_is_filled_by_whoever_makes_the_sweep_no_longer() -> None:
    halving = Halving([10, 30], 90, 4)
    at_rung(halving, a=1.0, b=2.0, c=3.0, d=4.0)  # a second a step
    halving.promote("a")
    halving.report("a", 10, 1.0, 100.0)
    assert halving.filler(now_s=100.0) == "b"  # both have 20 steps to go
    assert halving.filler(now_s=103.0) == "b"
    assert halving.filler(now_s=106.0) is None
    halving.leave("a")
    assert halving.filler(now_s=106.0) == "b"  # nothing runs, and none is done
    halving.promote("b")
    halving.leave("b", done=True)
    assert halving.filler(now_s=106.0) is None


def test_what_an_earlier_start_has_shown_is_on_the_rungs_and_who_waited_waits() -> None:
    halving = Halving([10, 30], 90, 3)
    halving.recall("ended", [(0, 9.0), (10, 5.0)])
    halving.recall("done", [(0, 9.0), (10, 1.0), (30, 0.9), (90, 0.8)])
    assert halving.begin("waited", [(0, 9.0), (10, 3.0)])
    assert not halving.begin("was running", [(0, 9.0), (10, 2.0), (20, 1.9)])
    assert (halving.running, halving.waiting) == (1, ["waited"])
    at_rung(halving, new=6.0)
    assert halving.best() is None  # one of four has passed
    at_rung(halving, newer=0.5)
    at_rung(halving, newest=0.6)
    assert halving.best() == "newer"
    assert halving.filler(10.0) is None or halving.running


def test_values_between_rungs_count_nowhere() -> None:
    halving = Halving([10, 30], 90, 2)
    halving.begin("a")
    assert not halving.report("a", 9, 0.1, 9.0)
    assert halving.report("a", 10, 5.0, 10.0)
    at_rung(halving, b=3.0)
    assert halving.best() == "b"


def simulate(seed: int, workers: int, fills: bool = True) -> tuple[float, float, bool]:
    """A sweep of 16 trials, four times as far at each rung: share of all steps, of the time used, and who won."""
    chance, count, end, noise = random.Random(seed), 16, 120, (0.5, 0.3, 0.0)
    worth = [chance.gauss(0, 1) for _ in range(count)]
    values = [[one + sigma * chance.gauss(0, 1) for sigma in noise] for one in worth]
    rungs = [8, 30]
    halving, goals = Halving(rungs, end, 4), [*rungs, end]
    queue, steps, now, new, done = [], 0, 0.0, 0, []
    while True:
        while halving.running < workers:
            chosen, came = halving.best(), 0
            if chosen is None and new < count:
                chosen, new = str(new), new + 1
                halving.begin(chosen)
                halving.report(chosen, 0, 9.0, now)
            else:
                chosen = chosen or (halving.filler(now) if fills or not halving.running else None)
                if chosen is None:
                    break
                came = next(step for step in reversed(rungs) if chosen in halving._arrived[step])
                halving.promote(chosen)
                halving.report(chosen, came, values[int(chosen)][rungs.index(came)], now)
            goal = goals[0] if came == 0 else goals[goals.index(came) + 1]
            steps += goal - came
            heapq.heappush(queue, (now + goal - came, int(chosen), goal))
        if not queue:
            break
        now, trial, goal = heapq.heappop(queue)
        if goal == end:
            done.append(trial)
            halving.leave(str(trial), done=True)
        else:
            halving.report(str(trial), goal, values[trial][goals.index(goal)], now)
    won = min(done, key=lambda one: worth[one])
    return steps / (count * end), steps / (now * workers), math.isclose(worth[won], min(worth))


@pytest.mark.parametrize("workers", [2, 4])
def test_simulated_sweeps_find_the_best_for_a_part_of_the_steps_without_idling(workers: int) -> None:
    found = [simulate(seed, workers) for seed in range(200)]
    bare = [simulate(seed, workers, fills=False) for seed in range(200)]
    shares, busy, right = (statistics.mean(column) for column in zip(*found, strict=True))
    print(
        f"{workers} places: {shares:.0%} of the steps, busy {busy:.0%} "
        f"(without fillers {statistics.mean(one[1] for one in bare):.0%}), the best trial wins {right:.0%}"
    )
    assert shares < {2: 0.25, 4: 0.36}[workers]
    assert busy > 0.88
    assert busy > statistics.mean(one[1] for one in bare) + 0.1
    assert right > 0.75
