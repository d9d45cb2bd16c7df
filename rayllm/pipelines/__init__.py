"""The stages of a run: one table that the command line, the jobs, the docs and the tests read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A verb of the command line and what it needs.

    Attributes:
        verb: Name, and the name of its section and artifact.
        help: One line.
        module: Where its ``Config``, ``VERSION`` and ``run`` are.
        parents: Stages whose artifacts it reads, of those that the run has: see ``run_config.has_stage``.
        shared: Whether its artifacts are shared by runs of other names.
        in_place: Whether its half-done work keeps its name, see ``core.stage.Task``.
        in_run: Whether ``rayllm run`` runs it.
    """

    verb: str
    help: str
    module: str
    parents: tuple[str, ...] = ()
    shared: bool = False
    in_place: bool = False
    in_run: bool = True


STAGES: dict[str, Stage] = {
    stage.verb: stage
    for stage in (
        Stage(
            "prepare",
            "raw files to a clean, deduplicated corpus",
            "rayllm.pipelines.prepare",
            shared=True,
            in_place=True,
        ),
        Stage(
            "fit_tokenizer",
            "corpus to a frozen tokenizer",
            "rayllm.pipelines.fit_tokenizer",
            parents=("prepare",),
            shared=True,
        ),
        Stage(
            "pack",
            "corpus to memory-mapped token shards",
            "rayllm.pipelines.pack",
            parents=("prepare", "fit_tokenizer"),
            shared=True,
            in_place=True,
        ),
        Stage(
            "reference",
            "pairs of replies to their log-probabilities under the model that training begins with",
            "rayllm.pipelines.reference",
            parents=("pack",),
            shared=True,
            in_place=True,
        ),
        Stage(
            "train",
            "token shards to checkpoints",
            "rayllm.pipelines.train",
            parents=("pack", "reference"),
            in_place=True,
        ),
        Stage("evaluate", "checkpoint to scores and samples", "rayllm.pipelines.evaluate", parents=("pack", "train")),
        Stage(
            "report",
            "all artifacts to one page",
            "rayllm.pipelines.report",
            parents=("prepare", "fit_tokenizer", "pack", "train", "evaluate"),
        ),
        Stage(
            "tune",
            "many trainings over a space of settings",
            "rayllm.pipelines.tune",
            parents=("pack", "reference"),
            in_place=True,
            in_run=False,
        ),
    )
}
