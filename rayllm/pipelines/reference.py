"""reference: pairs of replies to their log-probabilities under the model that training begins with.

In: packed pairs and ``train.init``. Out: two numbers for each pair (``data.preferences``), so that preference training
holds one model, not two. Ray Data hands parts of the rows to actors that hold the model; a part that is finished lies
in the stage's scratch directory, and after a stop only the others are computed. Rows, precision and kernels are those
of training: at its first step the policy says the same as the reference.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load, save

from rayllm.core import storage
from rayllm.core.config import RUNTIME, ConfigModel
from rayllm.core.errors import RayllmError
from rayllm.core.log import get_logger
from rayllm.core.progress import Step
from rayllm.core.stage import Work, full_disk_named
from rayllm.data.shards.packed import PackedData
from rayllm.model.config import ModelConfig
from rayllm.pipelines.frame import Frame
from rayllm.pipelines.progress import track
from rayllm.pipelines.ray_errors import error_from_json, error_to_json
from rayllm.pipelines.ray_runtime import cluster_resources, ensure_ray, quiet_libraries, require
from rayllm.train.config import TrainConfig
from rayllm.train.objective_config import DpoConfig

logger = get_logger(__name__)

VERSION = 1
#: Setting of the runs that have this stage.
WANTED_FOR = "train.objective: {kind: dpo}"
#: Positions of a part, about: some seconds of work for a small model, and a few kilobytes of numbers.
PART_TOKENS = 1 << 19


class ReferenceConfig(ConfigModel):
    """How the actors that compute the reference share the machine."""

    workers: int | None = Field(
        default=None, ge=1, description="Actors that hold the model; by default one for each GPU, else for each CPU."
    )
    worker_cpus: float = Field(
        default=0.9,
        gt=0,
        description="CPUs that Ray reserves for an actor, and, rounded up, its threads; below 1, so that reading is "
        "not starved.",
    )
    rows_per_batch: int = Field(default=16, ge=1, description="Rows of one forward pass.")


class Config(Frame):
    """What reference reads of a run file."""

    model: ModelConfig = Field(default=ModelConfig(), description="Sizes of the transformer.")
    train: TrainConfig = Field(description="Length, batch, precision, engine, checkpoints, validation.")
    reference: ReferenceConfig = Field(
        default=ReferenceConfig(), description="How the reference is computed.", json_schema_extra=RUNTIME
    )

    def identity(self) -> dict[str, Any]:
        """Only what shapes the numbers; the weights are in ``fingerprint``, the pairs a parent.

        So runs that differ in beta, learning rate or the like share one reference.
        """
        train = self.train
        computed = {"precision": train.precision, "fp8": train.fp8.identity(), "seq_len": train.seq_len}
        return {"model": self.model.identity(), "train": computed}


def wanted(config: Config) -> bool:
    """Whether the run compares replies with a reference."""
    return isinstance(config.train.objective, DpoConfig)


def check(config: Config) -> None:
    """Look at the model.

    Raises:
        ConfigError: If it is not there, or is another model than the config's.
    """
    from rayllm.pipelines.train.initial import check_initial

    assert config.train.init is not None, "the config of DPO names one"
    check_initial(config.train.init, config.model)


def fingerprint(config: Config) -> dict[str, str]:
    """The model, as it is now."""
    from rayllm.pipelines.train.initial import initial_fingerprint

    assert config.train.init is not None, "the config of DPO names one"
    return {"init": initial_fingerprint(config.train.init)}


class PartTask(BaseModel):
    """Rows of a domain to score, and where their numbers go."""

    model_config = ConfigDict(frozen=True)

    split: str
    domain: str
    first: int
    stop: int
    file: str


def run(work: Work) -> dict[str, Any]:
    """Score every pair, or find it scored, and write the values of each domain."""
    from rayllm.data.preferences import REFERENCE_JSON, SPLITS, ReferenceIndex, check_pairs, pairs_hash, values_file

    packed_artifact = work.inputs["pack"]
    packed_artifact.verify(deep=True)
    packed = PackedData.open(storage.absolute(packed_artifact.uri))
    check_pairs(packed)
    domains = [(split, domain) for split in SPLITS for domain in packed.pair_domains(split)]
    tasks = plan_parts(packed, domains, work.config.train.seq_len, storage.absolute(work.scratch))
    missing = [task for task in tasks if read_part(task) is None]
    if len(missing) < len(tasks):
        logger.info("%s of %s parts are there already", len(tasks) - len(missing), len(tasks))
    for _ in _watch(score_parts(missing, packed.uri, work.config), missing):
        pass  # what it gives lies in the parts
    counts: dict[str, Any] = {}
    precisions: set[str] = set()
    for split, domain in domains:
        parts = finished_parts([task for task in tasks if (task.split, task.domain) == (split, domain)])
        precisions |= {part.precision for part in parts}
        values = join_parts(parts)
        assert len(values) == packed.stream(split, domain).num_documents, "every pair stands in one row"
        storage.write_bytes(work.path(values_file(split, domain)), values.astype("<f8").tobytes())
        counts.setdefault(split, {})[domain] = describe(values)
    hashes = {
        split: {domain: pairs_hash(packed.stream(split, domain)) for domain in packed.pair_domains(split)}
        for split in SPLITS
    }
    precision = ", ".join(sorted(precisions))
    storage.write_text(work.path(REFERENCE_JSON), ReferenceIndex(precision=precision, pairs=hashes).model_dump_json())
    return {"precision": precision, **counts}


def _watch(precisions: Iterator[str], tasks: Sequence[PartTask]) -> Iterator[str]:
    """Pass on in what each part was computed, and show how far it is."""
    sizes = iter([task.stop - task.first for task in tasks])
    return track(
        precisions,
        "reference",
        total=sum(task.stop - task.first for task in tasks),
        step=lambda _: Step(next(sizes)),
        unit="rows",
    )


def plan_parts(packed: PackedData, domains: Sequence[tuple[str, str]], seq_len: int, directory: str) -> list[PartTask]:
    """Cut the rows of every domain into parts.

    Args:
        packed: The pairs.
        domains: Splits and domains.
        seq_len: Tokens of a row.
        directory: Where parts go.
    """
    from rayllm.data.packing.row_index import open_rows

    size = max(1, PART_TOKENS // seq_len)
    return [
        PartTask(
            split=split,
            domain=domain,
            first=first,
            stop=min(first + size, rows),
            file=storage.join(directory, split, domain, f"{first:08d}.safetensors"),
        )
        for split, domain in domains
        for rows in (open_rows(packed, split, domain, seq_len, "best_fit").num_rows,)
        for first in range(0, rows, size)
    ]


def describe(values: Float64[np.ndarray, "pairs 2"]) -> dict[str, float]:
    """What a manifest says of a domain: pairs, mean log-probabilities, and how often the preferred one is likelier."""
    chosen, rejected = values.T
    return {
        "pairs": len(values),
        "chosen_log_prob": float(chosen.mean()),
        "rejected_log_prob": float(rejected.mean()),
        "likelier": float((chosen > rejected).mean()),
    }


class Part(NamedTuple):
    """What was computed of some rows.

    Attributes:
        numbers: Of their pairs in the stream.
        values: Log-probabilities of the chosen and the rejected reply of each, in nats.
        precision: In what the model computed.
    """

    numbers: Int64[np.ndarray, " pairs"]
    values: Float64[np.ndarray, "pairs 2"]
    precision: str


def write_part(task: PartTask, part: Part) -> None:
    """Keep what was computed; the file appears whole, under its name."""
    precision = np.frombuffer(part.precision.encode(), np.uint8)
    body = save({"numbers": part.numbers, "values": part.values, "precision": precision})
    storage.write_bytes(task.file, body)


def read_part(task: PartTask) -> Part | None:
    """A part; None where it is not finished, or does not say in what the model computed, as in older versions."""
    if not storage.exists(task.file):
        return None
    found = load(storage.read_bytes(task.file))
    if "precision" not in found:
        return None
    return Part(found["numbers"], found["values"], found["precision"].tobytes().decode())


def finished_parts(tasks: Sequence[PartTask]) -> list[Part]:
    """The parts of tasks that have all been done."""
    parts = [part for task in tasks if (part := read_part(task)) is not None]
    assert len(parts) == len(tasks), "all parts were computed"
    return parts


def join_parts(parts: Sequence[Part]) -> Float64[np.ndarray, "pairs 2"]:
    """The values of a domain in the order of its pairs."""
    numbers = np.concatenate([part.numbers for part in parts])
    values = np.empty((len(numbers), 2), np.float64)
    values[numbers] = np.concatenate([part.values for part in parts])
    return values


class Scorer:
    """An actor that holds the model and scores parts.

    Args:
        config: Of the stage.
        packed_uri: The pairs.
        threads: Of torch.
    """

    def __init__(self, config: Config, packed_uri: str, threads: int) -> None:
        import torch

        from rayllm.model.transformer import Transformer
        from rayllm.pipelines.train.building import choose_compute
        from rayllm.pipelines.train.initial import load_initial
        from rayllm.train.config import EngineConfig
        from rayllm.train.fp8 import convert

        torch.set_num_threads(threads)
        self._config, self._packed = config, PackedData.open(packed_uri)
        model = config.model.with_vocab(self._packed.vocab_size)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        plain = EngineConfig(kind="torch")
        self.compute = choose_compute(config.train, config.train.precision, model, device, plain)
        self._module = Transformer(model)
        assert config.train.init is not None, "the config of DPO names one"
        load_initial(config.train.init, self._module, packed_uri)
        if self.compute.precision == "fp8":
            convert(self._module, config.train.fp8)
        self._module.set_attention_kernel(self.compute.attention.kernel)
        self._module.to(device).eval()

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Score the part of ``batch["task"]``; returns the precision, or an error of ours, as JSON."""
        (text,) = batch["task"]
        task = PartTask.model_validate_json(str(text))
        try:
            with full_disk_named(task.file):
                self.score(task)
        except RayllmError as error:
            return {"precision": [""], "error": [error_to_json(error)]}
        return {"precision": [self.compute.precision], "error": [""]}

    def score(self, task: PartTask) -> None:
        """Compute a part and write it."""
        import torch

        from rayllm.data.preferences import PairRows, pair_numbers, reply_log_probs
        from rayllm.train.engine import autocast

        rows = PairRows.open(self._packed, task.split, task.domain, self._config.train.seq_len)
        starts, device = rows.stream.document_starts(), self.compute.device
        numbers, values = [], []
        size = self._config.reference.rows_per_batch
        for first in range(task.first, task.stop, size):
            wanted_rows = range(first, min(first + size, task.stop))
            pairs = [pair_numbers(starts, rows.rows.segments(row)) for row in wanted_rows]
            batch = rows.batch(wanted_rows).to(device)
            with torch.no_grad(), autocast(device, self.compute.precision):
                losses = self._module(batch.input_ids, batch.labels, batch.doc_ids)
            found = reply_log_probs(losses, batch, 2 * max(map(len, pairs))).cpu().numpy()
            numbers += pairs
            values += [row[: 2 * len(held)].reshape(-1, 2) for row, held in zip(found, pairs, strict=True)]
        write_part(task, Part(np.concatenate(numbers), np.concatenate(values), self.compute.precision))


def score_parts(tasks: Sequence[PartTask], packed_uri: str, config: Config) -> Iterator[str]:
    """Score parts with actors; gives the precision of each as it is finished.

    Raises:
        RayllmError: The first that an actor met.
    """
    if not tasks:
        return
    ensure_ray(config.ray)
    import ray.data

    quiet_libraries()
    settings, have = config.reference, cluster_resources()
    gpus = int(have.get("GPU", 0))
    workers = min(settings.workers or gpus or max(1, int(have.get("CPU", 1))), len(tasks))
    needs = {"CPU": workers * settings.worker_cpus, **({"GPU": float(workers)} if gpus else {})}
    require(needs, what="reference", fix="lower reference.workers or reference.worker_cpus")
    rows = ray.data.from_items([{"task": task.model_dump_json()} for task in tasks], override_num_blocks=len(tasks))
    scored = rows.map_batches(
        Scorer,
        fn_constructor_args=(_placed(config), packed_uri, max(1, round(settings.worker_cpus))),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=settings.worker_cpus,
        num_gpus=1 if gpus else 0,
    )
    for row in scored.iter_rows():
        if row["error"]:
            raise error_from_json(row["error"])
        yield row["precision"]


def _placed(config: Config) -> Config:
    """The config with an absolute path of the model: actors may have another working directory."""
    from rayllm.pipelines.train.job import absolute_init

    assert config.train.init is not None, "the config of DPO names one"
    train = config.train.model_copy(update={"init": absolute_init(config.train.init)})
    return config.model_copy(update={"train": train})
