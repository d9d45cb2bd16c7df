"""The whole of a run file: the union of what its stages read."""

import importlib
from typing import Any

from pydantic import Field

from rayllm.core.config import ConfigModel, load_config
from rayllm.pipelines import STAGES, Stage, evaluate, fit_tokenizer, pack, prepare, report, train
from rayllm.tune.config import TuneConfig


class RunConfig(prepare.Config, fit_tokenizer.Config, pack.Config, train.Config, evaluate.Config, report.Config):
    """Every top-level key of a run file. ``tune`` is needed only by the verb of that name."""

    tune: TuneConfig | None = Field(None, description="What `rayllm tune` searches, and how.")


def load_run(path: str, overrides: list[str]) -> RunConfig:
    """Read a run file; see ``core.config.load_config``."""
    return load_config(path, overrides, RunConfig)


def stage_module(stage: Stage) -> Any:
    """The module of a stage: its ``Config``, ``VERSION`` and ``run``."""
    return importlib.import_module(stage.module)


def stage_config(verb: str, run: RunConfig) -> ConfigModel:
    """Cut from a run's config exactly the keys that a stage reads."""
    config = stage_module(STAGES[verb]).Config
    return config.model_validate({name: getattr(run, name) for name in config.model_fields})


def stage_fingerprint(stage: Stage, run: RunConfig) -> dict[str, Any]:
    """What a stage's result depends on besides config and parents: the user's own files, for ``prepare``."""
    module = stage_module(stage)
    return module.fingerprint(stage_config(stage.verb, run)) if hasattr(module, "fingerprint") else {}
