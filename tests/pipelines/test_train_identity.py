"""What the hash of a training covers: all that decides its result, and nothing that does not."""

from typing import Any

import pytest

from rayllm.core.artifact import content_hash
from rayllm.core.config import ConfigModel
from rayllm.pipelines.train import Config

ADAPTIVE = {"mixture": {"adaptive": {"reference": {"english": 1.0}}}}
PATIENT = {"train": {"guards": {"early_stopping": {}}}}
ROLLS_BACK = {"train": {"guards": {"spikes": {"action": "rollback"}}}}


def hash_of(run: dict[str, Any], **train: Any) -> str:
    settings = {"max_steps": 10} | run.get("train", {}) | train
    return content_hash(Config.model_validate({**run, "name": "x", "train": settings}).identity())


def test_the_hash_of_a_run_that_only_watches_has_neither_validations_nor_checkpoints() -> None:
    watched = {"validation": {"every_steps": 20}, "checkpoint": {"every_steps": 5, "stable": False}}
    assert hash_of({}, **watched) == hash_of({})
    plain = Config.model_validate({"name": "x", "train": {"max_steps": 10}})
    assert plain.identity() == ConfigModel.identity(plain), "nothing is added to what was hashed before"


@pytest.mark.parametrize("run", [ADAPTIVE, PATIENT])
@pytest.mark.parametrize("changed", [{"every_steps": 20}, {"at_steps": [5]}, {"max_tokens": 512}])
def test_other_validations_are_another_run_where_training_follows_them(run: dict, changed: dict) -> None:
    assert hash_of(run, validation=changed) != hash_of(run)
    assert hash_of(run, checkpoint={"every_steps": 5}) == hash_of(run)


@pytest.mark.parametrize("changed", [{"every_steps": 5}, {"keep_last": 3}, {"stable": False}])
def test_other_checkpoints_are_another_run_where_training_goes_back_to_them(changed: dict) -> None:
    assert hash_of(ROLLS_BACK, checkpoint=changed) != hash_of(ROLLS_BACK)
    assert hash_of(ROLLS_BACK, checkpoint={"asynchronous": False, "timeout_s": 1}) == hash_of(ROLLS_BACK)
    assert hash_of(ROLLS_BACK, validation={"every_steps": 20}) == hash_of(ROLLS_BACK)
