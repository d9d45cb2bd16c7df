"""Does every precision, kernel and engine compute what float32 does? Losses and gradients at small sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from support.gpu_sides import Bench, Setup, engine_step, make_batch, new_engine
from support.results import Table
from torch import Tensor

from rayllm.core.errors import SetupError
from rayllm.model.config import ModelConfig
from rayllm.model.layers.kernels import KERNELS, choose_kernel
from rayllm.optim.config import AdamWConfig
from rayllm.train.config import Fp8Config
from rayllm.train.engine import Engine
from rayllm.train.fp8 import check_hardware
from rayllm.train.precision import AUTOCAST_DTYPES, resolve_precision

STEPS = 4
ROWS, DOCUMENT_TOKENS = 4, 24
#: For a precision: the largest difference of a loss, in nats, and the largest relative error of the gradient.
TOLERANCES = {"fp32": (1e-4, 1e-3), "bf16": (2e-2, 3e-2), "fp16": (1e-2, 1e-2), "fp8": (5e-2, 0.25)}
#: Why nothing begins any more.
NO_TIME = "left out: no time"
#: Of AdamW.
BETA1 = AdamWConfig().betas[0]


@dataclass(frozen=True)
class Trace:
    """What a few steps gave: every loss, and the gradient of the first step by parameter, in float32 on the CPU."""

    losses: list[float]
    gradient: dict[str, Tensor]


@dataclass(frozen=True)
class Verdict:
    """One setup against float32.

    Attributes:
        setup: What was tried.
        loss_gap: Largest difference of a loss.
        gradient_error: Norm of the difference over the norm; of all parameters together.
        why: What kept it from being tried, or what is wrong; empty where all is well.
        tried: Whether it ran.
    """

    setup: Setup
    loss_gap: float
    gradient_error: float
    why: str
    tried: bool

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong; what cannot be tried here is not wrong."""
        return not self.tried or not self.why


def setups(bench: Bench) -> list[Setup]:
    """All that is checked."""
    found = [Setup(precision) for precision in ("bf16", "fp16")]
    found += [Setup("fp8", recipe=recipe) for recipe in ("tensorwise", "rowwise")]
    found += [Setup("fp32", attention="flex")]
    found += [Setup("bf16", attention=kernel) for kernel in KERNELS if kernel != "sdpa"]
    if bench.compiles:
        found += [Setup(precision, compiled=True) for precision in ("fp32", "bf16", "fp8")]
        found += [Setup("fp8", recipe="rowwise", compiled=True), Setup("bf16", compiled=True, zero_stage=1)]
    found += [Setup(precision, zero_stage=stage) for stage in (0, 1, 2, 3) for precision in ("fp32", "bf16")]
    return [*found, Setup("fp8", zero_stage=1)]


def obstacle(setup: Setup, model: ModelConfig, bench: Bench) -> str:
    """What keeps a setup from being tried here; empty if nothing does."""
    try:
        resolve_precision(setup.precision if setup.precision != "fp8" else "bf16", model.dim, bench.device)
        if setup.precision == "fp8":
            check_hardware(Fp8Config.model_validate({"recipe": setup.recipe, "emulate": bench.emulate}), bench.device)
        half = setup.precision in AUTOCAST_DTYPES
        choose_kernel(setup.attention, bench.device, model, half=half, document_mask=True)
    except SetupError as error:
        return error.why
    return ""


def run_checks(model: ModelConfig, length: int, bench: Bench, late: Callable[[], bool]) -> list[Verdict]:
    """Try all until it is late; nothing is raised for a setup that computes something else."""
    reference = trace(model, Setup(), length, bench)
    return [
        left_out(setup, NO_TIME) if late() else judge(setup, model, length, bench, reference) for setup in setups(bench)
    ]


def left_out(setup: Setup, why: str) -> Verdict:
    """Of a setup that is not tried."""
    return Verdict(setup, float("nan"), float("nan"), why, tried=False)


def judge(setup: Setup, model: ModelConfig, length: int, bench: Bench, reference: Trace) -> Verdict:
    """One setup against the reference."""
    if why := obstacle(setup, model, bench):
        return left_out(setup, why)
    found = trace(model, setup, length, bench)
    gap = max(abs(a - b) for a, b in zip(found.losses, reference.losses, strict=True))
    error = gradient_error(found.gradient, reference.gradient)
    loss_limit, gradient_limit = TOLERANCES[setup.precision]
    wrong = [] if gap <= loss_limit else [f"loss off by more than {loss_limit:g}"]
    wrong += [] if error <= gradient_limit else [f"gradient off by more than {gradient_limit:g}"]
    return Verdict(setup, gap, error, "; ".join(wrong), tried=True)


def trace(model: ModelConfig, setup: Setup, length: int, bench: Bench) -> Trace:
    """Train a few steps with document masks."""
    engine = new_engine(model, setup, bench, ROWS, grad_clip=0.0)
    step = engine_step(engine, make_batch(model, ROWS, length, DOCUMENT_TOKENS, bench.device), documents=True)
    losses = [step()]
    gradient = first_gradient(engine)
    losses += [step() for _ in range(STEPS - 1)]
    return Trace(losses, gradient)


def first_gradient(engine: Engine) -> dict[str, Tensor]:
    """The gradient of the first step, wherever the engine keeps it: Adam's first moment is a tenth of it."""
    moments = [part for part in engine.slices() if part.kind == "exp_avg"]
    return {part.param: part.tensor.float().cpu() / (1 - BETA1) for part in moments}


def gradient_error(found: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """Norm of the difference of two gradients over the norm of the second."""
    assert found.keys() == reference.keys(), f"other parameters: {sorted(found.keys() ^ reference.keys())}"
    difference = sum(float((found[name] - reference[name]).square().sum()) for name in reference)
    return (difference / sum(float(part.square().sum()) for part in reference.values())) ** 0.5


def table(verdicts: Sequence[Verdict]) -> Table:
    """The verdicts for people."""
    rows = []
    for verdict in verdicts:
        loss_limit, gradient_limit = TOLERANCES[verdict.setup.precision]
        numbers = [f"{verdict.loss_gap:.1e} ({loss_limit:g})", f"{verdict.gradient_error:.1e} ({gradient_limit:g})"]
        outcome = "not tried" if not verdict.tried else "pass" if verdict.passed else "FAIL"
        rows.append([verdict.setup.name, *(numbers if verdict.tried else ["", ""]), outcome, verdict.why])
    title = f"Against float32: {STEPS} steps of AdamW, document masks (in brackets: the most that passes)"
    return Table(title, ["setup", "loss, nats", "gradient, relative", "outcome", "why"], rows)
