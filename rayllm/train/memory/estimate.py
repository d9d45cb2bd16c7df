"""The memory of one rank by term: what the engine keeps, from a formula, and what a micro-batch keeps, from a trace.

In: a ``Setting``, sizes alone. Out: an ``Estimate``, bytes by term at the moment of a step when they are most. The
formula is what the engines do (DeepSpeed 0.19, stages 0 to 3, in float32 with autocast), found by counting torch's
allocations over whole steps. ``P`` are all parameters that are trained (of adapters, the base stands beside them under
weights), ``W`` the ranks:

| | weights | gradients | master weights | moments | besides |
|---|---|---|---|---|---|
| torch | P | P | none | 2P | |
| ZeRO 0 | P | P | none | 2P | P while ranks sum gradients |
| ZeRO 1 | P | P | P/W | 2P/W | bucket |
| ZeRO 2 | P | P/W | P/W | 2P/W | bucket; P/W in the step |
| ZeRO 3 | P/W | P/W | P/W | 2P/W | bucket; what is gathered, copies of the largest parameter |

Muon keeps one moment of a matrix, not two, and room to bring matrices together. Source of the idea: Rajbhandari et al.
2020, ZeRO, arXiv:1910.02054, section 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.model.lora.config import LoraConfig
from rayllm.model.matrices import block_matrices
from rayllm.train.memory.setting import FLOAT, HALF, Setting, count_orthogonal, count_trained
from rayllm.train.memory.trace import GRADIENTS, trace

#: Most elements of DeepSpeed's bucket (``train.deepspeed_engine.BUCKET_ELEMENTS``), which has room for the model; a GPU
#: holds all of it, while of a process's memory only what was written counts.
BUCKET_ELEMENTS = 200_000_000
#: Parameters that ZeRO 3 keeps gathered at most (DeepSpeed's ``stage3_max_live_parameters``).
GATHERED_ELEMENTS = 1_000_000_000
#: A process that has imported torch, Ray and DeepSpeed and joined a run, on the host; measured, torch for CPUs.
BASE_BYTES = 550_000_000
#: What the C library keeps of freed memory instead of giving it back: some, and a share of what lies in blocks below
#: ``MAPPED_BYTES``, which leave gaps in its heaps; larger ones are mapped one by one. Measured: three runs, glibc 2.36.
KEPT_BYTES, KEPT_SHARE = 20_000_000, 0.375
MAPPED_BYTES = 2**25
#: CUDA's own context in the memory of a GPU, which no tensor counts.
CONTEXT_BYTES = 600_000_000


@dataclass(frozen=True)
class Estimate:
    """Bytes of one rank at its peak, by term.

    Attributes:
        device: Where it computes; for a CPU, all of the process.
        host: The process beside a GPU; empty where it computes on the CPU.
    """

    device: dict[str, int]
    host: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes on the device."""
        return sum(self.device.values())

    @property
    def host_total(self) -> int:
        """Bytes of the process beside a GPU."""
        return sum(self.host.values())

    @property
    def biggest(self) -> str:
        """The term that takes most of what a setting can change."""
        return max((term for term in self.device if term not in (BASE, KEPT)), key=self.device.__getitem__)


BASE, KEPT, SNAPSHOT = "the process itself", "freed, not given back", "checkpoint in the making"
WEIGHTS, MASTER, MOMENTS, BUCKET = "weights", "master weights", "optimiser moments", "communication buckets"
GATHERED, EXCHANGE, STEP = "gathered weights", "matrices of Muon together", "copies in the optimizer step"


def estimate(setting: Setting, base_bytes: int | None = None) -> Estimate:
    """How much a rank needs.

    Args:
        setting: Of the run.
        base_bytes: What the process has without a model, where that was measured.
    """
    single = setting.micro_batches == 1
    work = trace(setting.model, setting.shape, keep_gradients=single, lora=setting.lora)
    kept = _state(setting)
    backward = kept | work if single else kept | _gradients(setting) | work
    step = kept | _gradients(setting) | _in_step(setting)
    return _placed(setting, max(backward, step, key=lambda terms: sum(terms.values())), base_bytes)


def ample(setting: Setting) -> int:
    """Bytes of the device that a rank never needs more than, without a trace: several times what it does need."""
    model, shape = setting.model, setting.shape
    channels = 24 * model.dim + 8 * (model.query_dim + model.kv_dim) + 8 * model.ffn_dim
    tokens = shape.rows * shape.seq_len
    blocks = 2 * FLOAT * tokens * channels * (model.num_layers + 1)
    logits = 8 * FLOAT * min(tokens, model.resolved_loss_chunk_tokens) * model.resolved_vocab_size
    masks = 2 * FLOAT * tokens * shape.seq_len * model.num_heads
    state = 8 * FLOAT * (count_parameters(model).total + setting.trained)
    return blocks + logits + masks + state + BUCKET_ELEMENTS * FLOAT + BASE_BYTES + CONTEXT_BYTES


def engine_bytes(setting: Setting) -> int:
    """What the engine keeps on the device while a micro-batch runs, gradients and buckets included."""
    found = _placed(setting, _state(setting) | _gradients(setting), 0).device
    return sum(size for term, size in found.items() if term not in (BASE, KEPT, SNAPSHOT))


def _state(setting: Setting) -> dict[str, int]:
    """What is there all the time."""
    counts, trained, world = count_parameters(setting.model), setting.trained, setting.world_size
    matrices = count_orthogonal(setting.model, setting.lora, setting.optimizer)
    moments = 2 * trained - matrices
    travelling = matrices * HALF * (1 + 2 * (world - 1) // world) // world
    terms = {
        WEIGHTS: setting.weight_bytes // (world if setting.stage == 3 else 1),
        MOMENTS: moments * FLOAT // (world if setting.stage else 1),
        EXCHANGE: travelling,
    }
    if setting.stage:
        terms |= {MASTER: trained * FLOAT // world, BUCKET: _bucket(setting, trained)}
    if setting.stage == 3:
        whole = min(setting.weight_bytes, GATHERED_ELEMENTS * FLOAT)
        copies = counts.embedding * FLOAT if setting.lora is None else 0  # of the largest that is trained
        terms[GATHERED] = whole + 3 * copies if world > 1 else copies
    return {term: size for term, size in terms.items() if size}


def _bucket(setting: Setting, total: int) -> int:
    """On a GPU all of it. On a CPU what was written: nothing while a step's first micro-batch runs forward."""
    if setting.device == "cuda":
        return min(total, BUCKET_ELEMENTS) * FLOAT
    written = setting.micro_batches > 1 and setting.stage in (1, 3)
    return min(total, BUCKET_ELEMENTS) * FLOAT if written else 0


def _gradients(setting: Setting) -> dict[str, int]:
    shards = setting.world_size if setting.stage >= 2 else 1
    return {GRADIENTS: setting.trained * FLOAT // shards}


def _in_step(setting: Setting) -> dict[str, int]:
    """Copies of gradients that the optimizer step makes."""
    total, world = setting.trained * FLOAT, setting.world_size
    if setting.stage == 1:
        written = 0 if _bucket(setting, total) else min(total, BUCKET_ELEMENTS * FLOAT)
        return {STEP: written} if written else {}
    plain = setting.engine == "torch" or setting.stage == 3
    return {} if plain else {STEP: total // (world if setting.stage else 1)}


def _placed(setting: Setting, terms: dict[str, int], base_bytes: int | None) -> Estimate:
    """The terms where they lie: all in the process on a CPU; else on the GPU, but for what is offloaded."""
    base = {BASE: BASE_BYTES if base_bytes is None else base_bytes}
    snapshot = {SNAPSHOT: _snapshot(setting)} if setting.snapshot else {}
    if setting.device == "cpu":
        return Estimate(terms | snapshot | base | {KEPT: _kept(setting.model, terms)}, {})
    offloaded = [MASTER, MOMENTS] if setting.offload_optimizer else []
    offloaded += [WEIGHTS] if setting.offload_parameters else []
    host = {term: terms[term] for term in offloaded}
    return Estimate(
        {term: size for term, size in terms.items() if term not in host} | {BASE: CONTEXT_BYTES},
        host | snapshot | base | {KEPT: _kept(setting.model, host)},
    )


def _kept(model: ModelConfig, terms: Mapping[str, int]) -> int:
    """What is freed and not given back beside some terms, whose blocks are as large as the model's matrices."""
    counts = count_parameters(model)
    widths = {"self_attn.o_proj": model.query_dim, "mlp.down_proj": model.ffn_dim}
    layers = [sum(rows.values()) * widths.get(name, model.dim) for name, rows in block_matrices(model).items()]
    matrices = [counts.embedding, counts.head, counts.positions, *layers * model.num_layers]
    mapped = sum(size for size in matrices if size * FLOAT >= MAPPED_BYTES)
    return KEPT_BYTES + int(KEPT_SHARE * (1 - mapped / counts.total) * sum(terms.values()))


def _snapshot(setting: Setting) -> int:
    """What rank 0, which writes the whole weights too, copies of the state."""
    return checkpoint_bytes(setting.model, setting.optimizer, setting.world_size, setting.lora)


def checkpoint_bytes(model: ModelConfig, optimizer: str, world_size: int = 1, lora: LoraConfig | None = None) -> int:
    """Bytes that rank 0 writes of a checkpoint: the weights, and its share of master weights and moments.

    Args:
        model: Sizes, with the vocabulary known.
        optimizer: Kind of the optimiser.
        world_size: Ranks that share master weights and moments; 1 for the whole checkpoint.
        lora: The adapters that it holds instead of a model.
    """
    trained = count_trained(model, lora)
    return (trained + (3 * trained - count_orthogonal(model, lora, optimizer)) // world_size) * FLOAT
