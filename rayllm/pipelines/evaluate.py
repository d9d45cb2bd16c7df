"""Checkpoint to scores: what the trained model is worth on every validation domain, and what it writes.

In: the pack and train artifacts. Out: ``scores.json``. On one machine the work runs in this process; on a cluster it is
one Ray task, so that it lands where a GPU is.
"""

import json
from typing import Any

from pydantic import Field

from rayllm.core import storage
from rayllm.core.artifact import Artifact
from rayllm.core.checkpoint import find_checkpoint
from rayllm.core.stage import Work
from rayllm.evals.config import EvaluateConfig
from rayllm.pipelines.frame import Frame

VERSION = 1
SCORES = "scores.json"


class Config(Frame):
    """What the stage reads of a run file."""

    evaluate: EvaluateConfig = Field(default=EvaluateConfig(), description="What is measured on the trained model.")


def run(work: Work) -> dict[str, Any]:
    """Evaluate the trained model.

    Raises:
        ArtifactDamaged: If a file that is read differs from its manifest.
    """
    packed, train = work.inputs["pack"], work.inputs["train"]
    packed.verify(deep=True)
    scores = _scores(work.config, packed, train)
    storage.write_text(work.path(SCORES), json.dumps(scores, indent=1, ensure_ascii=False))
    return {
        "checkpoint": scores["checkpoint"],
        "step": scores["step"],
        "mean_bits_per_byte": scores["mean_bits_per_byte"],
        "bits_per_byte": {domain: row["bits_per_byte"] for domain, row in scores["domains"].items()},
        "identification_accuracy": scores["identification"]["accuracy"],
    }


def _scores(config: Config, packed: Artifact, train: Artifact) -> dict[str, Any]:
    if config.ray.address == "local":
        return compute_scores(config, packed, train)
    import ray
    from ray.exceptions import RayTaskError

    from rayllm.pipelines.ray_runtime import cluster_resources, ensure_ray

    ensure_ray(config.ray)
    on_gpu = bool(cluster_resources().get("GPU"))
    task = ray.remote(num_gpus=1 if on_gpu else 0, num_cpus=1)(compute_scores)
    try:
        return ray.get(task.remote(config, packed, train))
    except RayTaskError as error:
        raise error.cause from error


def compute_scores(config: Config, packed: Artifact, train: Artifact) -> dict[str, Any]:
    """Load the checkpoint and measure it, on the GPU where there is one; the content of ``scores.json``."""
    import torch

    from rayllm.data.shards.packed import PackedData
    from rayllm.evals.runner import Conditions, evaluate
    from rayllm.inference.loading import load_checkpoint
    from rayllm.report.metrics_log import read_metrics

    uri = find_checkpoint(train.uri, prefer=config.evaluate.checkpoint)
    loaded = load_checkpoint(uri, device="cuda" if torch.cuda.is_available() else "cpu")
    trained = train.manifest.config["train"]
    conditions = Conditions(
        seq_len=trained["seq_len"],
        document_mask=trained["document_mask"],
        max_tokens=config.evaluate.max_tokens or trained["validation"]["max_tokens"],
        seed=config.seed,
    )
    before = read_metrics(train.file("metrics.jsonl")).untrained_validation
    return evaluate(loaded, PackedData.open(packed.uri), conditions, config.evaluate, before)
