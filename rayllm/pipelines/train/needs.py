"""What a run that lost a worker needed: the driver's word on memory, for deaths that leave none.

A process that the kernel or Ray ends for want of memory cannot say so. What it needed follows from what the run wrote
down at its start (``environment.json``).
"""

import dataclasses
import json
from typing import Any

from rayllm.core import storage
from rayllm.data.mixing.stages import stage_shapes
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines.train.building import ENVIRONMENT
from rayllm.pipelines.train.crew.failures import Cause
from rayllm.pipelines.train.job import Job
from rayllm.pipelines.train.out_of_memory import in_words
from rayllm.report.formats import data_size
from rayllm.train.memory.estimate import estimate
from rayllm.train.memory.setting import Setting, largest, setting_of, settings_of


def with_needs(cause: Cause, job: Job) -> Cause:
    """The cause of a failed start; where memory may be behind it, with what a rank needs and what to change.

    Args:
        cause: As it is known.
        job: The run.
    """
    where = storage.join(job.directory, ENVIRONMENT)
    if not cause.memory or not storage.exists(where):
        return cause
    setting = recorded_setting(job, json.loads(storage.read_text(where)))
    found = estimate(setting)
    why = f"{cause.why}; " if cause.why else ""
    why += f"a rank needs about {data_size(found.total)}"
    return dataclasses.replace(cause, why=why, fix=f"if it was memory: {in_words(setting, found)}")


def recorded_setting(job: Job, environment: dict[str, Any]) -> Setting:
    """What decided the memory of the last start.

    Args:
        job: The run.
        environment: Content of ``environment.json``.
    """
    config = job.config
    setting = setting_of(
        config.train,
        config.model.with_vocab(PackedData.open(job.packed_uri).vocab_size),
        environment["precision"],
        "cpu" if environment["device"] == "cpu" else "cuda",
        environment["world_size"],
    )
    shapes = stage_shapes(config.curriculum, config.train.seq_len, config.train.global_batch_tokens)
    rows = {int(length): count for length, count in environment["micro_batch_rows"].items()}
    return largest(settings_of(setting, shapes, rows))
