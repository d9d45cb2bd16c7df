import math

from made_results import result

from rayllm.tune.budget import Budget, BudgetConfig, Running, Spent


def test_trials_are_counted_once_however_often_they_were_tried():
    budget = Budget(BudgetConfig(trials=3))
    ended = [result(0, 1.0), result(1, error="died"), result(1, 1.0)]
    spent = budget.spent(ended, [], 0.0)
    assert spent.trials == 2
    assert budget.allows_start(spent)
    assert not budget.allows_start(budget.spent(ended, [Running(0.0, 1)], 0.0))


def test_hours_count_earlier_starts_of_the_sweep():
    budget = Budget(BudgetConfig(hours=1), earlier_s=3000, began_s=100)
    assert budget.spent([], [], 200) == Spent(0, 3100, 0)
    assert budget.deadline_s([], [], 200) == 700
    assert budget.allows_start(budget.spent([], [], 699))
    assert not budget.allows_start(budget.spent([], [], 700))


def test_device_hours_flow_as_fast_as_devices_are_held():
    budget = Budget(BudgetConfig(device_hours=1))
    ended = [result(0, 1.0, wall_s=100, cpus=4), result(1, 1.0, wall_s=100, cpus=4, gpus=2)]
    running = [Running(500, 2), Running(550, 1)]
    assert budget.spent(ended, running, 600).device_s == 400 + 200 + 200 + 50
    assert budget.deadline_s(ended, running, 600) == 600 + (3600 - 850) / 3


def test_without_a_limit_in_time_there_is_no_deadline():
    assert Budget(BudgetConfig(trials=1)).deadline_s([], [Running(0, 1)], 5) == math.inf


def test_a_simulated_sweep_keeps_its_device_hours():
    """Trials of 700 s on four devices of which each ends at the deadline: nothing is overspent."""
    budget, now, ended, running = Budget(BudgetConfig(device_hours=1)), 0.0, [], []
    while True:
        while len(running) < 4 and budget.allows_start(budget.spent(ended, running, now)):
            running.append(Running(now, 1))
        if not running:
            break
        now = min(running[0].since_s + 700, budget.deadline_s(ended, running, now))
        for one in [
            one for one in running if one.since_s + 700 <= now or budget.deadline_s(ended, running, now) <= now
        ]:
            running.remove(one)
            ended.append(result(len(ended), 1.0, wall_s=now - one.since_s))
    assert abs(budget.spent(ended, [], now).device_s - 3600) < 1e-6
