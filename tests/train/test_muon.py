"""Muon is the same update on every engine, at every ZeRO stage and number of ranks, and resumes like AdamW.

In the default run the iteration is Polar Express in float32 on the odd number of ranks, where parameters are cut up
unevenly, and torch's own in bf16 on two, where the norms' test asks for float32's losses; the other cases of the
product are slow.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from figures import Tell
from ranks import MODEL, run_ranks, small_config, small_plan, streams, train_small

from rayllm.core.errors import ArtifactDamaged
from rayllm.data.batches import BatchReader
from rayllm.model.matrices import matrix_splits
from rayllm.model.transformer import Transformer
from rayllm.optim.config import MuonConfig
from rayllm.optim.newton_schulz import METHODS
from rayllm.optim.schedules import rates_at
from rayllm.train.config import TrainConfig

ENGINES = [("torch", 0), *(("deepspeed", stage) for stage in range(4))]
CASES = [
    ("torch", 0, 1, "fp32"),
    ("torch", 0, 2, "bf16"),
    *(("deepspeed", stage, *rest) for stage in range(4) for rest in ((3, "fp32"), (2, "bf16"))),
]
REST = [
    *(("torch", 0, *rest) for rest in ((1, "bf16"), (2, "fp32"))),
    *(("deepspeed", stage, *rest) for stage in range(4) for rest in ((2, "fp32"), (3, "bf16"))),
]
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-3}
COEFFICIENTS = {"fp32": "polar_express", "bf16": "jordan"}


def muon_config(ns_dtype: str = "fp32", **changes: Any) -> TrainConfig:
    optimizer = MuonConfig(
        lr=3e-3,
        ns_dtype=ns_dtype,
        ns_coefficients=COEFFICIENTS[ns_dtype],
        momentum_warmup_steps=4,
        grad_clip=changes.pop("grad_clip", 1.0),
    )
    return small_config(optimizer=optimizer, global_batch_tokens=192, **changes)


def separate(model: Transformer) -> dict[str, torch.nn.Parameter]:
    """The matrices inside the blocks, those of fused parameters apart: views of the model's own memory."""
    splits, found = matrix_splits(model.config), {}
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and ".layers." in name:
            rows = next((rows for end, rows in splits.items() if name.endswith(end)), (parameter.shape[0],))
            for index, part in enumerate(parameter.detach().split(list(rows))):
                found[f"{name}:{index}"] = torch.nn.Parameter(part)
    return found


def plain_losses(config: TrainConfig) -> list[float]:
    """A loop without any of the training package: ``torch.optim.Muon`` on separate matrices, and AdamW."""
    assert isinstance(config.optimizer, MuonConfig)
    plan, model = small_plan(config), Transformer(MODEL)
    model.init_weights(1)
    matrices = separate(model)
    rest = [p for name, p in model.named_parameters() if p.ndim < 2 or ".layers." not in name]
    muon = torch.optim.Muon(list(matrices.values()), weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    reader = BatchReader(list(streams().values()), plan, 0)
    losses = []
    for step in range(plan.total_steps):
        batch = next(reader.micro_batches(step, 1, 0, 10_000))
        loss = model(batch.input_ids, batch.labels, batch.doc_ids).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip)
        for name, matrix in matrices.items():
            full, _, index = name.partition(":")
            rows = [m.shape[0] for other, m in matrices.items() if other.startswith(full + ":")]
            gradient = model.get_parameter(full).grad
            assert gradient is not None
            matrix.grad = gradient.split(rows)[int(index)].clone()
        rates = rates_at(config.optimizer, config.schedule, step, plan.total_steps)
        muon.param_groups[0]["lr"], muon.param_groups[0]["momentum"] = rates.lr, rates.momentum
        adamw.param_groups[0]["lr"] = rates.lr
        muon.step()
        adamw.step()
        model.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def reference() -> dict[str, list[float]]:
    """With torch's Muon as it is, in bf16, and with Polar Express in its place, in fp32."""
    from torch.optim import _muon

    def iterate_fp32(grad: torch.Tensor, _coefficients: tuple[float, ...], _steps: int, eps: float) -> torch.Tensor:
        x = grad.mT if grad.shape[0] > grad.shape[1] else grad
        x = x / (x @ x.mT).norm().clamp(min=eps).sqrt()
        for a, b, c in METHODS["polar_express"].polynomials[:4]:
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.mT if grad.shape[0] > grad.shape[1] else x

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {"bf16": plain_losses(muon_config())}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_muon, "_zeropower_via_newtonschulz", iterate_fp32)
        found["fp32"] = plain_losses(muon_config())
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize(
    ("kind", "stage", "world", "ns_dtype"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)]
)
def test_losses_equal_a_plain_loop_with_torch_muon(
    kind: str, stage: int, world: int, ns_dtype: str, reference: dict[str, list[float]], tmp_path: Path, tell: Tell
) -> None:
    result = run_ranks(train_small, world, str(tmp_path), kind, stage, muon_config(ns_dtype))[0]
    found = [result["losses"][step] for step in range(1, 7)]
    gap = max(abs(a - b) for a, b in zip(found, reference[ns_dtype], strict=True))
    engine = f"{kind} {stage}" if kind == "deepspeed" else kind
    found_gap = {"largest_gap": f"{gap:.1e}", "allowed": f"{TOLERANCE[ns_dtype]:.0e}"}
    tell(
        "losses of Muon against torch.optim.Muon in one process",
        engine=engine,
        ranks=world,
        iteration=f"{COEFFICIENTS[ns_dtype]}, {ns_dtype}",
        **found_gap,
    )
    assert gap < TOLERANCE[ns_dtype], f"largest gap {gap:.2e}"


@pytest.mark.fault("P10", "a loss is not finite", "the step changes nothing, on all ranks")
@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        engine if engine in (("deepspeed", 0), ("deepspeed", 3)) else pytest.param(*engine, marks=pytest.mark.slow)
        for engine in ENGINES
    ],
)
def test_a_step_that_is_not_finite_leaves_weights_and_momentum_on_all_ranks(
    kind: str, stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every engine is asked it with AdamW; here by default one that skips in our optimiser, one in DeepSpeed's."""
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:3=nan")
    results = run_ranks(train_small, 2, str(tmp_path), kind, stage, muon_config())
    for result in results:
        assert result["state"]["optimizer_steps"] == 5
        assert all(tensor.isfinite().all() for tensor in (*result["weights"].values(), *result["slices"].values()))
    left, right = (result["weights"] for result in results)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def clipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One rank of the plain engine whose gradients are clipped in every step."""
    directory = str(tmp_path_factory.mktemp("clipped"))
    return run_ranks(train_small, 1, directory, "torch", 0, muon_config(grad_clip=1e-2))[0]


@pytest.mark.parametrize(("kind", "stage"), ENGINES)
def test_the_norm_that_is_clipped_is_the_gradients(
    kind: str, stage: int, clipped: dict[str, Any], tmp_path: Path
) -> None:
    double = run_ranks(train_small, 2, str(tmp_path), kind, stage, muon_config(grad_clip=1e-2))[0]
    assert double["norms"] == pytest.approx(clipped["norms"], rel=1e-4)
    assert double["losses"] == pytest.approx(clipped["losses"], abs=1e-5)


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path: Path) -> None:
    run_ranks(train_small, 1, str(tmp_path), "torch", 0, small_config(), "fp32", 3)
    (message,) = run_ranks(_resume_with_muon, 1, str(tmp_path))
    assert "momentum of model.layers.0" in message


def _resume_with_muon(directory: str) -> str:
    with pytest.raises(ArtifactDamaged) as caught:
        train_small(directory, "torch", 0, muon_config())
    return str(caught.value)
