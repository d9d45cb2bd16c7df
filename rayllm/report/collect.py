"""Artifacts to records: everything that a page about a run shows, read once and checked.

In: the artifacts of a run, by verb; any may be missing. Out: ``RunRecords``, plain values. What a stage did not leave
is ``None`` or empty, and its part of the page is left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayllm.core import storage
from rayllm.core.artifact import Artifact, read_artifact
from rayllm.core.checkpoint import find_checkpoint
from rayllm.core.errors import ConfigError
from rayllm.data.mixing.plan import Plan
from rayllm.data.shards.format import PackedIndex
from rayllm.report.metrics_log import MetricsLog, Record, parse_metrics
from rayllm.tokenizer.chat.template import read_template

MEASURES = ("loss", "perplexity", "bits_per_byte", "surprise_ratio")
Scores = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RunRecords:
    """All that is known about a run.

    Attributes:
        name: Of the run.
        artifacts: By verb, in the order of the stages.
        metrics: What training logged.
        scores: Content of ``scores.json``, if the run was evaluated.
        packed: What the packed shards hold.
        plan: Which rows every step reads.
        environment: Machine and software of the training.
        sweep: Content of a sweep's ``table.json``.
        checkpoint: URI of the checkpoint to use.
        model: The resolved model config of that checkpoint.
        chats: Whether that checkpoint has learnt a chat template.
        fork: Of a fork, the run and the checkpoint that it went on from; else empty.
    """

    name: str
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    metrics: MetricsLog = field(default_factory=MetricsLog)
    scores: dict[str, Any] | None = None
    packed: PackedIndex | None = None
    plan: Plan | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] | None = None
    checkpoint: str | None = None
    model: dict[str, Any] = field(default_factory=dict)
    chats: bool = False
    fork: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config of the run: what all its stages read."""
        merged: dict[str, Any] = {}
        for artifact in self.artifacts.values():
            merged |= artifact.manifest.config
        return merged

    @property
    def domains(self) -> list[str]:
        """Names of the domains, in the order of the run file."""
        if self.packed:
            return list(self.packed.splits.get("train") or self.packed.splits.get("validation", {}))
        if self.plan:
            return list(self.plan.domains)
        return list(self.scores_after)

    @property
    def scores_before(self) -> Scores:
        """Scores of the untrained model by domain; empty if they were not taken."""
        if self.scores and self.scores["before"]:
            return self.scores["before"]
        untrained = self.metrics.untrained_validation
        return scores_of(untrained) if untrained else {}

    @property
    def scores_after(self) -> Scores:
        """Scores of the trained model by domain: of the evaluation, else of the last validation in training."""
        if self.scores:
            return self.scores["domains"]
        return scores_of(self.metrics.validation[-1]) if self.metrics.validation else {}

    def counts(self, verb: str) -> dict[str, Any]:
        """What a stage counted; empty if it is not there."""
        return self.artifacts[verb].counts if verb in self.artifacts else {}


def scores_of(record: Record) -> Scores:
    """A flat ``validation`` record as a table: domain, then measure."""
    domains = [key.partition("/")[2] for key in record if key.startswith("bits_per_byte/")]
    return {domain: {name: record.get(f"{name}/{domain}") for name in MEASURES} for domain in domains}


def collect(name: str, artifacts: Mapping[str, Artifact], *, sweep: str | None = None) -> RunRecords:
    """Read the records of a run.

    Args:
        name: Of the run.
        artifacts: By verb.
        sweep: URI of a ``tune`` artifact.

    Raises:
        ArtifactDamaged: If a file that is read differs from its manifest.
    """
    train = artifacts.get("train")
    scores = _json(artifacts.get("evaluate"), "scores.json")
    checkpoint = scores["checkpoint"] if scores else _checkpoint(train)
    metrics, plan, packed = (
        _text(train, "metrics.jsonl"),
        _text(train, "plan.json"),
        _text(artifacts.get("pack"), "packed.json"),
    )
    return RunRecords(
        name=name,
        artifacts=dict(artifacts),
        metrics=parse_metrics(metrics) if metrics else MetricsLog(),
        scores=scores,
        packed=PackedIndex.model_validate_json(packed) if packed else None,
        plan=Plan.from_json(plan) if plan else None,
        environment=_json(train, "environment.json") or {},
        sweep=_json(read_artifact(sweep), "table.json") if sweep else None,
        checkpoint=checkpoint,
        model=_model(checkpoint),
        chats=checkpoint is not None and read_template(checkpoint) is not None,
        fork=_json(train, "fork.json") or {},
    )


def _text(artifact: Artifact | None, path: str) -> str | None:
    if artifact is None or path not in {record.path for record in artifact.manifest.files}:
        return None
    artifact.verify(deep=True, only=path)
    return storage.read_text(artifact.file(path))


def _json(artifact: Artifact | None, path: str) -> Any:
    text = _text(artifact, path)
    return None if text is None else json.loads(text)


def _checkpoint(train: Artifact | None) -> str | None:
    if train is None:
        return None
    try:
        return find_checkpoint(train.uri)
    except ConfigError:  # the run saved none
        return None


def _model(checkpoint: str | None) -> dict[str, Any]:
    where = storage.join(checkpoint, "model.json") if checkpoint else None
    return json.loads(storage.read_text(where)) if where and storage.exists(where) else {}
