"""train: token shards to checkpoints, with metrics and validation on the way.

``driver`` joins Ray and has the workers supervised (``crew``), ``worker`` is what every worker runs, ``session`` builds
a run from its config and needs no Ray.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from rayllm.core.artifact import Artifact
from rayllm.core.stage import Work
from rayllm.data.mixing.stages import Curriculum, stage_shapes, stage_steps
from rayllm.data.mixing.weights import MixtureConfig
from rayllm.model.config import ModelConfig
from rayllm.model.lora.config import idle_targets, matrix_names
from rayllm.optim.config import GroupConfig
from rayllm.pipelines.frame import Frame
from rayllm.pipelines.nodes import Node
from rayllm.pipelines.ray_runtime import prepare_environment
from rayllm.pipelines.train.crew.sizing import size_crew
from rayllm.train.config import TrainConfig
from rayllm.train.fp8 import MULTIPLE, misfits

VERSION = 1


class Config(Frame):
    """What train reads of a run file."""

    model: ModelConfig = Field(default=ModelConfig(), description="Sizes of the transformer.")
    mixture: MixtureConfig = Field(default=MixtureConfig(), description="Weights of the training domains.")
    curriculum: Curriculum = Field(default=[], description="Stages with other weights, lengths or batches.")
    train: TrainConfig = Field(description="Length, batch, precision, engine, checkpoints, validation.")

    @model_validator(mode="after")
    def _fp8_fits(self) -> "Config":
        shapes = stage_shapes(self.curriculum, self.train.seq_len, self.train.global_batch_tokens)
        found = misfits(self.model, (length for length, _ in shapes)) if self.train.precision == "fp8" else []
        if found:
            raise ValueError(
                f"with `train.precision: fp8` sizes are multiples of {MULTIPLE}, but {'; '.join(found)}: change that, "
                "or set `train.precision` to bf16"
            )
        return self

    @model_validator(mode="after")
    def _head_is_there(self) -> "Config":
        if self.model.tie_embeddings and self.train.optimizer.groups.head != GroupConfig():
            raise ValueError(
                "`train.optimizer.groups.head` is for an output matrix of its own, and with `model.tie_embeddings` it "
                "is the embedding: set `groups.embedding`, or `model.tie_embeddings: false`"
            )
        return self

    @model_validator(mode="after")
    def _targets_are_there(self) -> "Config":
        idle = idle_targets(self.train.lora, self.model) if self.train.lora else []
        if idle:
            raise ValueError(
                f"`train.lora.targets`: {', '.join(idle)} matches no matrix of the model; there are "
                f"{', '.join(matrix_names(self.model))} in model.layers.0 to {self.model.num_layers - 1}"
            )
        return self

    @model_validator(mode="after")
    def _shapes_fit(self) -> "Config":
        shapes = stage_shapes(self.curriculum, self.train.seq_len, self.train.global_batch_tokens)
        longest = max(length for length, _ in shapes)
        if longest > self.model.max_seq_len:
            raise ValueError(f"seq_len {longest} is more than model.max_seq_len {self.model.max_seq_len}; raise that")
        if self.train.tokens_per_param is None:  # else the budget is known with the tokenizer
            step_tokens = [length * rows for length, rows in shapes]
            stage_steps(self.curriculum, step_tokens, max_steps=self.train.max_steps, total_tokens=self.train.tokens)
        return self

    @model_validator(mode="after")
    def _one_mixture_to_adapt(self) -> "Config":
        own = [index for index, stage in enumerate(self.curriculum) if stage.weights is not None or stage.temperature]
        if self.mixture.adaptive and own:
            raise ValueError(
                f"`mixture.adaptive` moves the weights of the run, and curriculum stage {own[0]} has its own: remove "
                "the weights and temperatures of the stages, or `mixture.adaptive`"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What shapes the result: validations too where weights or the end follow them, checkpoints where it goes back.

        In all other runs these only watch and keep.
        """
        found, guards = super().identity(), self.train.guards
        if self.mixture.adaptive or guards.early_stopping:
            found["train"]["validation"] = self.train.validation.identity()
        if guards.spikes.action == "rollback":
            found["train"]["checkpoint"] = self.train.checkpoint.identity()
        return found


def check(config: Config) -> None:
    """Look at the models and runs that this one begins with, or is measured against.

    Raises:
        ConfigError: If it is not there, or is another one than the config's.
    """
    if config.train.init:
        from rayllm.pipelines.train.initial import check_initial

        check_initial(config.train.init, config.model)
    if config.mixture.adaptive:
        from rayllm.pipelines.train.reference import read_reference

        read_reference(config.mixture.adaptive)
    if config.train.fork:
        from rayllm.pipelines.train.fork import check_fork

        check_fork(config)


def check_forced(config: Config) -> None:
    """See whether the run can begin again.

    Raises:
        ConfigError: If the run that it forks is gone.
    """
    if config.train.fork:
        from rayllm.pipelines.train.fork import check_forced_fork

        check_forced_fork(config)


def check_nodes(config: Config, nodes: Sequence[Node]) -> None:
    """See whether the workers have room.

    Raises:
        SetupError: If they do not.
    """
    size_crew(config.train.workers, nodes)


def fingerprint(config: Config) -> dict[str, str]:
    """The model, the checkpoint and the reference that the run needs, as they are now."""
    found = {}
    if config.train.init:
        from rayllm.pipelines.train.initial import initial_fingerprint

        found["init"] = initial_fingerprint(config.train.init)
    if config.mixture.adaptive:
        from rayllm.pipelines.train.reference import reference_fingerprint

        found["reference"] = reference_fingerprint(config.mixture.adaptive)
    if config.train.fork:
        from rayllm.pipelines.train.fork import fork_fingerprint

        found["fork"] = fork_fingerprint(config)
    return found


def run(work: Work) -> dict[str, Any]:
    """Train, or go on from the last checkpoint in ``work.directory``."""
    prepare_environment()  # before Ray is imported, since it reads some of it then
    from rayllm.pipelines.train.driver import run_with_ray

    for artifact in work.inputs.values():
        artifact.verify(deep=True)
    return run_with_ray(work)


def run_single(config: Config, packed: Artifact, directory: str, reference: Artifact | None = None) -> dict[str, float]:
    """Train in this process, with one worker and without Ray.

    Args:
        config: The run.
        packed: Token shards.
        directory: Where metrics and checkpoints go.
        reference: What the objective compares with, where it does.

    Returns:
        The metrics of the last validation.
    """
    from rayllm.pipelines.train.session import train_alone

    return train_alone(config, packed.uri, directory, reference.uri if reference else "")
