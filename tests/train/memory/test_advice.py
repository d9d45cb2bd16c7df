"""The changes that are told save what they say, and are settings that exist."""

from dataclasses import replace

import pytest

from rayllm.core.config_source import read_source
from rayllm.pipelines.run_config import RunConfig
from rayllm.train.memory.advice import TOLD, WORTHWHILE, advise
from rayllm.train.memory.estimate import estimate
from tests.train.memory.test_estimate import MODEL, setting

BIG = MODEL.model_copy(update={"dim": 512, "num_layers": 12, "ffn_dim": 1408, "vocab_size": 32_768})


def big(**changes):
    one = setting(model=BIG, **changes)
    return replace(one, shape=replace(one.shape, rows=16, seq_len=256))


def test_the_three_cheapest_changes_are_told_each_with_what_it_saves():
    one = big(device="cuda")
    found = advise(one)
    assert len(found) == TOLD
    assert [change.override for change in found][:2] == ["model.loss_chunk_tokens=512", "train.micro_batch_size=8"]
    assert all(change.saved_bytes >= WORTHWHILE * estimate(one).total for change in found)


def test_a_saving_is_the_difference_of_two_estimates():
    one = big(device="cuda")
    change = next(change for change in advise(one) if change.override == "train.micro_batch_size=8")
    fewer = replace(one, shape=replace(one.shape, rows=8), micro_batches=4)
    assert change.saved_bytes == estimate(one).total - estimate(fewer).total


@pytest.mark.parametrize("changes", [{"device": "cuda"}, {"device": "cpu"}, {"stage": 3}, {"stage": 0}])
def test_overrides_are_settings_of_a_run_file(changes, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("name: t\nsources: {a: {kind: python_stdlib}}\ntrain: {max_steps: 10}\n")
    for change in advise(big(**changes)):
        source = read_source(str(file), [change.override])
        RunConfig.model_validate(source.tree)


def test_one_row_and_one_small_chunk_leave_only_what_helps():
    one = replace(setting(), micro_batches=1)
    one = replace(one, shape=replace(one.shape, rows=1))
    assert all("micro_batch" not in change.override and "chunk" not in change.override for change in advise(one))
