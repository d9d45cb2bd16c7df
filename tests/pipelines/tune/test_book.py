"""The book of a sweep, with trials that only report."""

import time
from pathlib import Path

import pytest

from rayllm.core.errors import SetupError
from rayllm.pipelines import train
from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.nodes import Node
from rayllm.pipelines.tune.book import Book
from rayllm.pipelines.tune.capacity import Needs, lacking, needs_of
from rayllm.pipelines.tune.progress import Progress
from rayllm.pipelines.tune.standing import read_standing
from rayllm.pipelines.tune.stepwise import Reached
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.tune.config import TuneConfig
from rayllm.tune.results import Ledger, Point, group_of
from rayllm.tune.samplers.sampler import ListSampler, name_of

LR = "train.optimizer.lr"
NEEDS = Needs(1.0, 0.0, 1)


def make_sweep(root, **settings):
    config = train.Config(name="t", storage=str(root), train={"max_steps": 4})
    space = {LR: {"kind": "grid", "values": [0.001]}}
    judge = lambda metrics, tokens: metrics.get("loss", float("nan"))  # noqa: E731
    return Sweep(config, TuneConfig(space=space, **settings), "packed", RayConfig(), str(root), judge)


class Listening(ListSampler):
    """Remembers what it was told."""

    def __init__(self, settings):
        super().__init__(settings)
        self.told = []

    def tell(self, result):
        self.told.append(result)


def make_book(root, values, ledger=None, **settings):
    sampler = Listening([{LR: value} for value in values])
    return Book(make_sweep(root, **settings), sampler, ledger or Ledger(f"{root}/trials.jsonl"), NEEDS)


def progress(run, step, ended="", earlier=(), turn_s=1.0, wall_s=2.0, moved="", lr=1e-3, **metrics):
    point = Point(step=step, tokens=10 * step, metrics=metrics) if metrics else None
    reached = Reached(point, ended, "broken" if ended == "failed" else "", "trace")
    return Progress(
        reached,
        earlier,
        turn_s,
        wall_s,
        0.1,
        reused=True,
        parent=moved and "good/checkpoint",
        settings={LR: lr},
        directory=f"{run.directory}{moved}",
    )


def run_one(book, **report):
    run = book.next_run()
    book.begin(run.id)
    book.note(run.id, progress(run, 4, **report))
    book.close(run.id)
    return book.results[-1]


def test_a_trial_is_finished_stopped_or_failed_by_how_it_ended(tmp_path):
    book = make_book(tmp_path, [1e-3, 2e-3, 3e-3, 4e-3])
    assert run_one(book, ended="finished", loss=1.0).status == "finished"
    assert run_one(book, loss=1.0).status == "stopped"
    failed = run_one(book, ended="failed")
    assert (failed.status, failed.error, failed.metrics) == ("failed", "broken", {})
    assert run_one(book, ended="finished", other=1.0).error == "its last validation gave no finite mean_bits_per_byte"
    assert book.next_run() is None
    assert book.exhausted


def test_what_ended_before_is_told_under_the_settings_that_were_asked_for(tmp_path):
    run_one(make_book(tmp_path, [1.0]), ended="finished", loss=1.0)
    told, sampler = [], ListSampler([{LR: 1}])
    sampler.tell = told.append
    book = Book(make_sweep(tmp_path), sampler, Ledger(f"{tmp_path}/trials.jsonl"), NEEDS)
    assert book.next_run() is None
    assert [(name_of(one.settings), one.group) for one in told] == [(name_of({LR: 1}), group_of({LR: 1}))]


def test_a_training_that_is_asked_for_twice_runs_once_and_is_told_under_both_settings(tmp_path):
    told, sampler = [], ListSampler([{LR: 1.0}, {LR: 1}])
    sampler.tell = told.append
    book = Book(make_sweep(tmp_path), sampler, Ledger(f"{tmp_path}/trials.jsonl"), NEEDS)
    run = book.next_run()
    assert book.next_run() is None
    book.begin(run.id)
    book.note(run.id, progress(run, 4, ended="finished", lr=1.0, loss=1.0))
    book.close(run.id)
    assert [name_of(one.settings) for one in told] == [name_of({LR: 1.0}), name_of({LR: 1})]
    assert len(book.results) == 1


def test_what_ended_before_is_not_run_again_and_counts_among_the_results(tmp_path):
    first = make_book(tmp_path, [1e-3, 2e-3])
    run_one(first, ended="finished", loss=1.0)
    again = make_book(tmp_path, [1e-3, 2e-3], Ledger(f"{tmp_path}/trials.jsonl"))
    run = again.next_run()
    assert run.trial.settings == {LR: 2e-3}
    assert run.trial.index == 1
    assert [result.trial for result in again.results] == [0]


def test_a_trial_that_was_interrupted_keeps_its_number(tmp_path):
    first = make_book(tmp_path, [1e-3, 2e-3])
    interrupted = first.next_run()
    run_one(first, ended="finished", loss=1.0)
    again = make_book(tmp_path, [1e-3, 2e-3, 3e-3], Ledger(f"{tmp_path}/trials.jsonl"))
    assert again.next_run().id == interrupted.id
    assert again.next_run().trial.index == 2


def test_a_trial_that_was_taken_up_twice_has_one_curve_and_all_its_seconds(tmp_path):
    book = make_book(tmp_path, [1e-3])
    run = book.next_run()
    book.note(run.id, progress(run, 2, loss=3.0, turn_s=1.0, wall_s=5.0))
    before = Point(step=2, tokens=20, metrics={"loss": 3.0})
    book.note(run.id, progress(run, 4, loss=2.0, turn_s=9.0, wall_s=4.0, earlier=(before,), ended="finished"))
    book.close(run.id)
    [result] = book.results
    assert [point.step for point in result.curve] == [2, 4]
    assert (result.wall_s, result.tokens, result.metrics) == (9.0, 40, {"loss": 2.0})
    assert (result.start_s, result.restarts_s, result.starts_s) == (0.1, 0.1, 0.2)


def test_what_a_lost_process_had_shown_beyond_its_checkpoint_is_forgotten(tmp_path):
    book = make_book(tmp_path, [1e-3])
    run = book.next_run()
    for step in (2, 4):
        book.note(run.id, progress(run, step, loss=1.0))
    book.note(run.id, progress(run, 3, loss=2.0, turn_s=9.0))
    book.close(run.id)
    assert [point.step for point in book.results[0].curve] == [2, 3]


def test_an_interrupted_sweep_knows_what_its_trials_have_cost_and_whose_place_they_took(tmp_path):
    first = make_book(tmp_path, [1e-3, 2e-3])
    kept, moved = first.next_run(), first.next_run()
    for run in (kept, moved):
        first.begin(run.id)
        first.note(run.id, progress(run, 2, loss=3.0))
    first.note(moved.id, progress(moved, 4, loss=2.0, turn_s=5.0, moved="/step-2", lr=5e-3))
    assert (first.changes, read_standing(str(tmp_path)).changes) == (1, 1)
    first.live[kept.id].begun_s -= 100  # it has run so long
    first.keep()

    again = make_book(tmp_path, [1e-3, 2e-3], budget={"device_hours": 99 / 3600})
    assert again.changes == 1
    assert again.before.furthest == 4
    run = again.next_run()
    assert again.order(run).directory == ""
    again.begin(run.id)
    assert again.overdue()  # by the seconds of its first start
    order = make_book(tmp_path, [2e-3]).order(moved)
    assert order.settings == {LR: 5e-3}
    assert order.config.train.optimizer.lr == 5e-3
    assert order.config.train.fork.source == "good/checkpoint"
    assert order.directory == f"{moved.directory}/step-2"

    again.note(run.id, progress(run, 4, ended="finished", loss=1.0, wall_s=7.0))
    again.close(run.id)
    [result] = again.results
    assert result.wall_s == pytest.approx(107, abs=1)
    assert [point.step for point in result.curve] == [2, 4]
    assert set(read_standing(str(tmp_path)).trials) == {moved.id}


def test_settings_that_make_no_valid_run_are_a_failed_trial_and_the_next_one_runs(tmp_path):
    book = make_book(tmp_path, [-1.0, 1e-3])
    assert book.next_run().trial.settings == {LR: 1e-3}
    [result] = book.results
    assert result.status == "failed"
    assert "greater than 0" in result.error


def test_no_trial_begins_once_the_budget_is_spent(tmp_path):
    book = make_book(tmp_path, [1e-3, 2e-3, 3e-3], budget={"trials": 2})
    assert book.next_run()
    assert book.next_run()
    assert book.next_run() is None
    assert book.exhausted


def test_trials_are_overdue_when_the_hours_of_all_starts_are_spent(tmp_path):
    book = make_book(tmp_path, [1e-3], budget={"hours": 0.2 / 3600})
    assert not book.overdue()
    time.sleep(0.25)
    assert book.overdue()
    book.keep()
    assert read_standing(str(tmp_path)).wall_s == pytest.approx(0.25, abs=0.2)
    assert make_book(tmp_path, [1e-3], budget={"hours": 0.2 / 3600}).next_run() is None


def node(cpus, gpus=0.0):
    return Node("n", "h", 1, cpus, gpus)


@pytest.mark.parametrize(
    ("needs", "free", "trials"),
    [
        (Needs(1, 0, 1), [(2, 0)], 2),
        (Needs(0.3, 0, 1), [(0.9, 0)], 3),
        (Needs(1, 0.5, 1), [(8, 1), (8, 1)], 4),
        (Needs(1, 0.6, 1), [(8, 2)], 2),
        (Needs(1, 0.1, 1), [(32, 1)], 10),
        (Needs(1, 0.333, 1), [(32, 3)], 9),
        (Needs(1, 0.3333333, 1), [(32, 1)], 3),
        (Needs(1, 0.34, 1), [(32, 3)], 6),
        (Needs(1, 2, 1), [(32, 5)], 2),
        (Needs(1, 0, 2), [(3, 0)], 1),
        (Needs(1, 0, 2), [(1, 0), (1, 0)], 1),
        (Needs(2, 0, 1), [(1, 0), (1, 0)], 0),
    ],
)
def test_as_many_trials_run_as_the_nodes_have_room_for(needs, free, trials):
    assert needs.trials(free) == trials


def test_what_several_workers_cannot_do_is_refused(tmp_path):
    with pytest.raises(SetupError, match="0.5 GPU for 2 workers".replace(".", r"\.")):
        needs_of(make_sweep(tmp_path, workers=2, gpus_per_trial=0.5).settings, [node(2, 1)])
    assert (
        needs_of(make_sweep(tmp_path, workers=2, gpus_per_trial=4, cpus_per_trial=2).settings, [node(2, 4)]).gpus == 2
    )
    with pytest.raises(ValueError, match="trials of a population stand still"):
        make_sweep(tmp_path, workers=2, scheduler={"kind": "pbt"})


def test_whole_gpus_with_a_part_of_one_are_refused_as_ray_would(tmp_path):
    with pytest.raises(SetupError, match=r"it is 1\.5(.|\n)*set it to 2, or to 1 or less"):
        needs_of(make_sweep(tmp_path, gpus_per_trial=1.5).settings, [node(8, 4)])
    assert needs_of(make_sweep(tmp_path, gpus_per_trial=0.6).settings, [node(8, 4)]).gpus == 0.6


def test_what_a_trial_asks_for_is_shared_by_its_workers_and_refused_where_no_node_has_it(tmp_path):
    sweep = make_sweep(tmp_path, workers=2, cpus_per_trial=2).settings
    assert needs_of(sweep, [node(2)]) == Needs(1, 0, 2)
    assert needs_of(make_sweep(tmp_path).settings, [node(2, 4)]) == Needs(1, 1, 1)
    with pytest.raises(SetupError, match="a trial wants 2 CPU and 0 GPU for 2 workers; the largest node has 1 CPU"):
        needs_of(sweep, [node(1)])


def test_the_resource_that_a_waiting_trial_lacks_is_named():
    free, total = {"CPU": 4.0, "GPU": 0.5}, {"CPU": 8.0, "GPU": 2.0}
    assert lacking(Needs(1, 1, 1), free, total) == "it wants 1 GPU (0.5 of 2 free)"


def test_a_raised_budget_of_trials_does_not_count_what_confirmed_earlier_leaders(tmp_path):
    ledger = Ledger(f"{tmp_path}/trials.jsonl")
    first = make_book(tmp_path, [1e-3, 2e-3, 3e-3], ledger, budget={"trials": 2})
    run_one(first, ended="finished", loss=1.0), run_one(first, ended="finished", loss=1.0)
    assert first.next_run() is None
    for seed in range(4):
        ledger.append(first.results[0].model_copy(update={"key": f"fresh {seed}", "settings": {"seed": seed}}))
    raised = make_book(tmp_path, [1e-3, 2e-3, 3e-3, 4e-3], ledger, budget={"trials": 3})
    assert raised.next_run().trial.settings == {LR: 3e-3}
    assert raised.next_run() is None
    assert raised.exhausted


def test_a_trial_that_the_budget_cuts_off_is_in_the_table_and_goes_on_when_it_is_raised(tmp_path):
    first = make_book(tmp_path, [1e-3, 2e-3], budget={"trials": 2})
    run_one(first, ended="finished", loss=1.0)
    run = first.next_run()
    checkpoints = Path(run.directory, "checkpoints")
    checkpoints.mkdir(parents=True)
    first.begin(run.id)
    first.note(run.id, progress(run, 2, loss=3.0, wall_s=4.0))
    first.note(run.id, progress(run, 3, ended="asked", wall_s=5.0))
    first.close(run.id)
    cut = first.results[-1]
    assert (cut.status, cut.metrics, cut.cut) == ("stopped", {"loss": 3.0}, True)
    assert first._sampler.told == [first.results[0]]  # the one that ended by itself

    ledger = Ledger(f"{tmp_path}/trials.jsonl")
    again = make_book(tmp_path, [1e-3, 2e-3, 3e-3], ledger, budget={"trials": 2, "device_hours": 8 / 3600})
    assert again.next_run().id == run.id
    assert again.next_run() is None  # it is one of the two
    assert checkpoints.exists()
    again.begin(run.id)
    assert not again.overdue()  # its five seconds and the other's two, each counted once
    again.note(run.id, progress(run, 4, ended="finished", loss=2.0, wall_s=1.0, turn_s=9.0))
    again.close(run.id)
    assert [(one.trial, one.status, one.wall_s) for one in Ledger(f"{tmp_path}/trials.jsonl").results] == [
        (0, "finished", 2.0),
        (1, "finished", 6.0),
    ]
    assert [point.step for point in again.results[-1].curve] == [2, 4]
    assert again.results[-1].starts_s == 0.2  # of both starts of the sweep
    assert not checkpoints.exists()


def test_seconds_of_trials_that_failed_before_are_spent_for_good(tmp_path):
    ledger, budget = Ledger(f"{tmp_path}/trials.jsonl"), {"device_hours": 2 / 3600}
    run_one(make_book(tmp_path, [1e-3], ledger), ended="failed")  # in two seconds
    again = make_book(tmp_path, [1e-3, 2e-3], ledger, budget=budget)
    assert again.next_run() is None
    assert again.exhausted


def test_no_trial_begins_once_those_that_run_are_asked_to_end(tmp_path):
    book = make_book(tmp_path, [1e-3, 2e-3], budget={"device_hours": 50 / 3600})
    run = book.next_run()
    book.begin(run.id)
    book.live[run.id].begun_s -= 100  # it has been held so long
    assert book.overdue()
    book.note(run.id, progress(run, 2, ended="asked", loss=1.0, wall_s=5.0))
    book.close(run.id)  # and has trained less
    assert book.next_run() is None
    assert book.exhausted


def test_checkpoints_of_a_population_stay_while_one_of_its_trials_may_go_on(tmp_path):
    book = make_book(tmp_path, [1e-3, 2e-3], scheduler={"kind": "pbt"})
    runs = [book.next_run(), book.next_run()]
    for run in runs:
        Path(run.directory, "checkpoints").mkdir(parents=True)
        book.begin(run.id)
    for run, ended in zip(runs, ("finished", "asked"), strict=True):
        book.note(run.id, progress(run, 4, ended=ended, loss=1.0))
        book.close(run.id)
    assert Path(runs[0].directory, "checkpoints").exists()


def test_a_sampler_is_told_what_a_trial_came_to_when_it_waits_and_when_it_has_gone_on(tmp_path):
    book = make_book(tmp_path, [1e-3])
    run = book.next_run()
    book.begin(run.id)
    book.note(run.id, progress(run, 2, loss=3.0))
    book.pause(run.id)
    book.pause(run.id)
    assert (book.results, list(book.live)) == ([], [run.id])
    book.begin(run.id)
    book.note(run.id, progress(run, 4, ended="finished", turn_s=9.0, loss=2.0))
    book.close(run.id)
    told = [(one.status, one.tokens, one.metrics["loss"]) for one in book._sampler.told]
    assert told == [("stopped", 20, 3.0), ("finished", 40, 2.0)]


def test_a_trial_that_waits_when_the_budget_is_spent_goes_on_when_it_is_raised(tmp_path):
    book = make_book(tmp_path, [1e-3], budget={"hours": 1.0})
    run = book.next_run()
    book.begin(run.id)
    book.note(run.id, progress(run, 2, loss=3.0))
    book.pause(run.id)
    book._over = True
    book.close(run.id)
    assert (book.results[-1].status, book.results[-1].cut) == ("stopped", True)
    again = make_book(tmp_path, [1e-3], budget={"hours": 2.0})
    assert again.before.trials[run.id].curve[-1].step == 2
    assert again.next_run().id == run.id
    [waiting] = again._ended()  # what it has cost counts while it waits
    assert waiting.wall_s == 2.0


def test_a_population_tells_nothing_of_trials_that_meet(tmp_path):
    book = make_book(tmp_path, [1e-3], scheduler={"kind": "pbt"}, budget={"trials": 1})
    run = book.next_run()
    book.begin(run.id)
    book.note(run.id, progress(run, 2, loss=3.0))
    book.pause(run.id)
    assert book._sampler.told == []


def test_a_trial_that_waits_for_its_turn_costs_nothing_meanwhile(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    book = make_book(tmp_path, [1e-3, 2e-3], scheduler={"kind": "pbt"}, budget={"device_hours": 45 / 3600})
    first, second = book.next_run(), book.next_run()
    book.begin(first.id)
    book.note(first.id, progress(first, 2, loss=1.0, turn_s=1000.0, wall_s=10.0))
    now[0] = 1010.0
    book.pause(first.id)
    book.pause(first.id)  # whoever looks twice counts once
    book.begin(second.id)
    now[0] = 1040.0
    assert not book.overdue()  # ten seconds and thirty
    book.note(second.id, progress(second, 2, loss=1.0, turn_s=1010.0, wall_s=30.0))
    book.pause(second.id)
    book.begin(first.id)
    book.keep()
    stands = read_standing(str(tmp_path)).trials
    assert [stands[run.id].wall_s for run in (first, second)] == [10.0, 30.0]
    now[0] = 1046.0
    assert book.overdue()


def test_checkpoints_of_a_population_are_removed_when_it_ends_in_a_later_start(tmp_path):
    first = make_book(tmp_path, [1e-3, 2e-3], scheduler={"kind": "pbt"})
    runs = [first.next_run(), first.next_run()]
    own, moved = Path(runs[0].directory, "checkpoints"), Path(runs[0].directory, "step-2", "checkpoints")
    for directory in (own, moved):
        directory.mkdir(parents=True)
        Path(directory, "state").touch()
    for run, ended in zip(runs, ("finished", "asked"), strict=True):
        first.begin(run.id)
        first.note(run.id, progress(run, 4, ended=ended, loss=1.0))
        first.close(run.id)

    again = make_book(tmp_path, [1e-3, 2e-3], Ledger(f"{tmp_path}/trials.jsonl"), scheduler={"kind": "pbt"})
    run = again.next_run()
    assert run.id == runs[1].id
    assert own.exists()
    again.begin(run.id)
    again.note(run.id, progress(run, 4, ended="finished", loss=1.0))
    again.close(run.id)
    assert not own.exists()
    assert not moved.exists()
