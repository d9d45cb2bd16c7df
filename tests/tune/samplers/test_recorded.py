import random

import pytest
from planted import MEAN, SHARES, SPACE, ended, loss

from rayllm.core.errors import ArtifactDamaged
from rayllm.tune.dimensions import Choice
from rayllm.tune.results import Ledger
from rayllm.tune.samplers import model_based
from rayllm.tune.samplers.combined import Chain, Replicated
from rayllm.tune.samplers.config import CmaEsSearch, RandomSearch, TpeSearch
from rayllm.tune.samplers.recorded import Recorded
from rayllm.tune.samplers.sampler import ListSampler, name_of
from rayllm.tune.space import Space


class Killed(Exception):
    """The sweep ends here."""


def sweep(directory, config, trials, die_after=None):
    """Two trials at a time, ending in an order of their own; finished ones are taken from the ledger."""
    ledger = Ledger(str(directory / "trials.jsonl"))
    inner = Replicated(Chain([ListSampler([{}]), config.build(SPACE, MEAN, 0)]), 2, 0)
    sampler = Recorded(inner, str(directory / "proposals.jsonl"))
    known = {name_of(one.settings) for one in ledger.results}
    for one in list(ledger.results):
        sampler.tell(one)
    running, proposed, order = [], [], random.Random(1)
    while len(proposed) < trials or running:
        while len(running) < 2 and len(proposed) < trials:
            settings = sampler.ask()
            proposed.append(settings)
            if name_of(settings) not in known:
                running.append((len(proposed), settings))
        if not running:
            continue
        if die_after is not None and len(ledger.results) >= die_after:
            raise Killed
        number, settings = running.pop(order.randrange(len(running)))
        value = loss(settings) if settings.get("lr") else 9.0
        ledger.append(ended(settings, value + 0.01 * settings.get("seed", 0), number=number))
        sampler.tell(ledger.results[-1])
    return proposed, ledger.results


@pytest.mark.parametrize(
    "config", [TpeSearch(startup=4), CmaEsSearch(), RandomSearch()], ids=["tpe", "cmaes", "random"]
)
@pytest.mark.parametrize("die_after", [0, 1, 9])
def test_a_sweep_that_was_killed_goes_on_with_what_it_proposed(tmp_path, config, die_after):
    (tmp_path / "killed").mkdir()
    with pytest.raises(Killed):
        sweep(tmp_path / "killed", config, 24, die_after)
    before = [line for line in (tmp_path / "killed/proposals.jsonl").read_text().splitlines() if "ask" in line]
    proposed, results = sweep(tmp_path / "killed", config, 24)
    assert len(before) <= len(proposed) == 24
    assert len({name_of(one.settings) for one in results}) == 24
    assert sweep(tmp_path / "killed", config, 24)[0] == proposed  # and again, with all of them finished


def test_a_restored_sampler_proposes_what_it_would_have_proposed(tmp_path):
    """With the same order of ends, a sweep killed and restored between two trials is the unbroken one."""
    (tmp_path / "straight").mkdir()
    (tmp_path / "broken").mkdir()
    config = TpeSearch(startup=4)
    straight, _ = sequence(tmp_path / "straight", config, [20])
    broken, _ = sequence(tmp_path / "broken", config, [1, 7, 13, 20])
    assert broken == straight


def sequence(directory, config, stops):
    """One trial at a time, begun anew at every stop."""
    proposed = []
    for stop in stops:
        ledger = Ledger(str(directory / "trials.jsonl"))
        sampler = Recorded(config.build(SPACE, MEAN, 0), str(directory / "proposals.jsonl"))
        again = [sampler.ask() for _ in ledger.results]
        assert again == proposed
        while len(proposed) < stop:
            proposed.append(sampler.ask())
            ledger.append(ended(proposed[-1], loss(proposed[-1]), number=len(proposed)))
            sampler.tell(ledger.results[-1])
    return proposed, ledger


def test_a_search_that_found_nothing_for_a_while_goes_on_as_it_was(tmp_path, monkeypatch):
    """What is left of a small space is hard to find by chance; a result makes the search look again."""
    monkeypatch.setattr(model_based, "FRUITLESS", 2)
    space = Space({"a": Choice(values=list(range(12)))}, SHARES)
    uri, proposed, told = str(tmp_path / "proposals.jsonl"), [], 0
    make = lambda: Recorded(TpeSearch(startup=10**6).build(space, MEAN, 1), uri)  # noqa: E731
    sampler = make()
    while len(proposed) < 12:
        if settings := sampler.ask():
            proposed.append(settings)
        else:
            assert sampler.ask() is None
            sampler.tell(ended(proposed[told], 1.0, number=told))
            told += 1
    assert told > 0
    again = make()
    assert [again.ask() for _ in proposed] == proposed


def test_a_record_of_another_sampler_is_not_gone_on_with(tmp_path):
    sequence(tmp_path, TpeSearch(startup=4), [6])
    with pytest.raises(ArtifactDamaged, match="the sampler is not what it was"):
        sequence(tmp_path, CmaEsSearch(), [7])
    record = tmp_path / "proposals.jsonl"
    record.write_text(record.read_text() + '{"ask"')
    with pytest.raises(ArtifactDamaged) as caught:
        Recorded(ListSampler([]), str(record))
    assert caught.value.where


def test_a_result_that_the_ledger_has_lost_leaves_all_others_where_they_were(tmp_path):
    proposed, _ = sequence(tmp_path, TpeSearch(startup=4), [8])
    lines = (tmp_path / "trials.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "trials.jsonl").write_text("".join(lines[:2] + lines[3:]))
    sampler = Recorded(TpeSearch(startup=4).build(SPACE, MEAN, 0), str(tmp_path / "proposals.jsonl"))
    assert [sampler.ask() for _ in proposed] == proposed
    following = sampler.ask()
    (tmp_path / "whole").mkdir()
    assert sequence(tmp_path / "whole", TpeSearch(startup=4), [9])[0][-1] == following
