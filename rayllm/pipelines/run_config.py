"""The whole of a run file: the union of what its stages read."""

import importlib
from collections.abc import Callable
from typing import Any

from pydantic import Field, model_validator

from rayllm.core.artifact import Manifest
from rayllm.core.config import ConfigModel, load_config
from rayllm.core.errors import ConfigError
from rayllm.corpus.sources import Source, holds_conversations, holds_pairs
from rayllm.data.mixing.curriculum import check_domains
from rayllm.data.mixing.stages import stage_shapes
from rayllm.data.mixing.weights import check_known
from rayllm.pipelines import STAGES, Stage, evaluate, fit_tokenizer, pack, prepare, reference, report, train
from rayllm.pipelines.depth import expand
from rayllm.tune.config import TuneConfig


class RunConfig(
    prepare.Config,
    fit_tokenizer.Config,
    pack.Config,
    train.Config,
    reference.Config,
    evaluate.Config,
    report.Config,
):
    """Every top-level key of a run file. ``tune`` is needed only by the verb of that name."""

    depth: int | None = Field(
        default=None,
        ge=1,
        description="One dial for sizes, learning rates, batch and tokens; see `rayllm depth`. Own settings win.",
    )
    tune: TuneConfig | None = Field(None, description="What `rayllm tune` searches, and how.")

    @model_validator(mode="before")
    @classmethod
    def _sized_by_depth(cls, data: Any) -> Any:
        return expand(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _weights_of_known_domains(self) -> "RunConfig":
        """Found here, before the corpus is made, not hours later by the stage that reads the weights."""
        try:
            check_domains(self.mixture, self.curriculum, list(self.sources))
            for name in self.fit_tokenizer.weights or ():
                check_known(name, list(self.sources), "fit_tokenizer.weights")
        except ConfigError as error:
            parts = [f"{error.where}: {error.what}", error.why, error.fix]
            raise ValueError("; ".join(filter(None, parts))) from error
        return self

    @model_validator(mode="after")
    def _conversations_are_packed_whole(self) -> "RunConfig":
        talking = [setting for setting, group in self._all_sources().items() if any(map(holds_conversations, group))]
        if self.pack.chat is None:
            if talking:
                raise ValueError(
                    f"{talking[0]} has conversations: say in `pack.chat` how they become tokens "
                    "(`pack: {chat: {}}` is ChatML)"
                )
            return self
        if any(holds_pairs(source) for group in self._all_sources().values() for source in group):
            self._pairs_are_compared_whole()
        shapes = stage_shapes(self.curriculum, self.train.seq_len, self.train.global_batch_tokens)
        shortest = min(length for length, _ in shapes)
        if self.train.packing != "best_fit" or self.pack.chat.max_tokens > shortest:
            raise ValueError(
                "with `pack.chat`, rows hold whole conversations: set `train.packing: best_fit`, and "
                f"`pack.chat.max_tokens` ({self.pack.chat.max_tokens}) to no more than the shortest row ({shortest})"
            )
        return self

    def _pairs_are_compared_whole(self) -> None:
        """Pairs need an objective that compares them, and nothing cut off.

        Raises:
            ValueError: Naming the setting.
        """
        assert self.pack.chat is not None, "asked for where conversations are"
        if self.pack.chat.truncate != "drop":
            raise ValueError(
                f"`pack.chat.truncate: {self.pack.chat.truncate}` would cut the two replies of a pair, or their "
                "prompts, differently: set it to drop"
            )

    @model_validator(mode="after")
    def _objective_fits_the_sources(self) -> "RunConfig":
        compares = self.train.objective.kind == "dpo"
        for setting, group in self._all_sources().items():
            pairs = [holds_pairs(source) for source in group]
            if compares and not all(pairs):
                raise ValueError(
                    f"`train.objective: {{kind: dpo}}` compares replies, and {setting} holds other documents: "
                    "give it sources of kind preferences or synthetic_preferences only"
                )
            if any(pairs) and not compares:
                raise ValueError(
                    f"{setting} holds pairs of replies, of which one is preferred: set `train.objective: {{kind: dpo}}`"
                )
        return self

    def _all_sources(self) -> dict[str, list[Source]]:
        """Those of every domain, for training and for validation, by the setting that holds them."""
        sections = {"sources": self.sources, "validation.sources": self.validation.sources}
        return {f"{section}.{name}": group for section, found in sections.items() for name, group in found.items()}


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


def has_stage(verb: str, run: RunConfig) -> bool:
    """Whether a run has a stage at all: a module's ``wanted`` may say no to a config."""
    module = stage_module(STAGES[verb])
    return not hasattr(module, "wanted") or module.wanted(stage_config(verb, run))


def check_stage(stage: Stage, run: RunConfig, *, force: bool = False) -> None:
    """What a stage asks of its config beyond the schema, before anything starts.

    Args:
        stage: Which one.
        run: The whole run.
        force: Whether it is to be made again, without what earlier starts have left.

    Raises:
        ConfigError: If it lacks something.
    """
    module = stage_module(stage)
    if hasattr(module, "check"):
        module.check(stage_config(stage.verb, run))
    if force and hasattr(module, "check_forced"):
        module.check_forced(stage_config(stage.verb, run))


def stage_fingerprint(stage: Stage, run: RunConfig) -> dict[str, Any]:
    """What a stage's result depends on besides config and parents: the user's own files, for ``prepare``."""
    module = stage_module(stage)
    return module.fingerprint(stage_config(stage.verb, run)) if hasattr(module, "fingerprint") else {}


def stage_goes_on(stage: Stage, run: RunConfig) -> Callable[[Manifest], bool]:
    """Whether a finished artifact is to be taken up again, by its manifest; see ``core.stage.Task``."""
    module = stage_module(stage)
    if not hasattr(module, "goes_on"):
        return lambda _: False
    config = stage_config(stage.verb, run)
    return lambda manifest: module.goes_on(config, manifest)
