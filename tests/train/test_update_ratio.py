"""The update ratio is that of the whole weights, however they are cut up among ranks."""

import math
from typing import Any

import pytest
import torch
from ranks import MODEL, build_engine, run_ranks, small_config, small_plan, streams
from torch import nn

from rayllm.data.batches import BatchReader
from rayllm.model.transformer import Transformer
from rayllm.optim.config import GroupConfig, GroupsConfig, MuonConfig
from rayllm.optim.groups import groups_of
from rayllm.optim.schedules import Rates
from rayllm.train import update_ratio
from rayllm.train.engine import Engine, Slice
from rayllm.train.update_ratio import UpdateRatios

#: Engine and ZeRO stage.
LAYOUTS = [("torch", 0), *(("deepspeed", stage) for stage in (0, 1, 2, 3))]
MUON = MuonConfig(lr=1e-2, groups=GroupsConfig(vectors=GroupConfig(lr_scale=0)))
Ratios = dict[str, float]


def on_paper() -> Transformer:
    with torch.device("meta"):
        return Transformer(MODEL)


def one_step(kind: str, stage: int, optimizer: Any = None) -> tuple[Ratios, Ratios]:
    """What is measured in one step, and what follows from the whole weights before and after."""
    config = small_config() if optimizer is None else small_config(optimizer=optimizer)
    engine = build_engine(kind, stage, config)
    ratios = UpdateRatios(on_paper(), engine)
    before = {name: value.clone() for name, value in engine.full_parameters()}
    reader = BatchReader(list(streams().values()), small_plan(config), 0)
    for batch in reader.micro_batches(0, engine.world_size, engine.rank, 2):
        engine.backward(engine.token_losses(batch).sum() / 256)
    seen = ratios.look()
    engine.step(Rates(lr=1e-2, momentum=0.9))
    measured = ratios.since(seen)()
    after = dict(engine.full_parameters())
    changed, whole = dict.fromkeys(update_ratio.GROUPS, 0.0), dict.fromkeys(update_ratio.GROUPS, 0.0)
    for name, group in groups_of(on_paper()).items():
        changed[group] += float((after[name] - before[name]).double().square().sum())
        whole[group] += float(before[name].double().square().sum())
    return measured, {f"update_ratio/{name}": math.sqrt(changed[name] / whole[name]) for name in whole if whole[name]}


def every_layout() -> list[tuple[Ratios, Ratios]]:
    return [one_step(*layout) for layout in LAYOUTS]


def every_layout_and_muon() -> list[tuple[Ratios, Ratios]]:
    return [*every_layout(), one_step("deepspeed", 1, MUON)]


def test_it_is_the_change_over_the_weights_of_each_group_at_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_ratio, "LOOKED_AT", 10**9)
    first, second = run_ranks(every_layout_and_muon, 2)
    for (measured, expected), (of_other_rank, _) in zip(first, second, strict=True):
        assert measured == of_other_rank
        assert measured == pytest.approx(expected, rel=1e-5)
        assert set(measured) == {f"update_ratio/{group}" for group in groups_of(on_paper()).values()}
        assert len(measured) > 2
    *adamw, (muon, _) = first
    assert all(1e-3 < ratio < 1 for measured, _ in adamw for ratio in measured.values())
    assert muon["update_ratio/vectors"] == 0, "a frozen group stands still"


def test_a_sample_looks_at_the_same_elements_at_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_ratio, "LOOKED_AT", 100)
    ((sampled, exact),) = run_ranks(one_step, 1, "torch", 0)
    assert sampled != pytest.approx(exact, rel=1e-5), "all elements were looked at"
    for found, _ in run_ranks(every_layout, 3)[0]:
        assert found == pytest.approx(sampled, rel=1e-4)


class Whole(nn.Module):
    """One large matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.big = nn.Linear(1024, 1024, bias=False)


def test_a_sample_of_a_large_matrix_is_near_the_whole() -> None:
    module = Whole()

    class OneMatrix:
        def owned_slices(self) -> list[Slice]:
            return [Slice("big.weight", "master", 0, module.big.weight.detach().view(-1))]

    engine: Any = OneMatrix()
    ratios = UpdateRatios(module, engine)
    seen = ratios.look()
    columns = torch.linspace(0, 1, 1024)  # a change that differs by column
    before = module.big.weight.detach().clone()
    with torch.no_grad():
        module.big.weight.add_(columns * 0.01)
    exact = float((module.big.weight.detach() - before).norm() / before.norm())
    assert ratios.since(seen)() == {"update_ratio/matrices": pytest.approx(exact, rel=0.02)}


def test_what_has_no_weights_yet_has_no_ratio() -> None:
    module = Whole()
    nn.init.zeros_(module.big.weight)

    class Zeros:
        def owned_slices(self) -> list[Slice]:
            return [Slice("big.weight", "master", 0, module.big.weight.detach().view(-1))]

    engine: Engine = Zeros()  # pyright: ignore[reportAssignmentType]
    ratios = UpdateRatios(module, engine)
    assert ratios.since(ratios.look())() == {}


def test_a_look_is_at_as_many_elements_at_any_depth() -> None:
    def looked_at(layers: int) -> tuple[int, int]:
        module = Transformer(MODEL.model_copy(update={"num_layers": layers, "dim": 256, "ffn_dim": 1024}))

        class OneRank:
            def owned_slices(self) -> list[Slice]:
                return [Slice(name, "master", 0, value.detach().view(-1)) for name, value in module.named_parameters()]

        engine: Any = OneRank()
        return max(UpdateRatios(module, engine)._lengths), len(engine.owned_slices())

    for layers in (4, 24):
        elements, parameters = looked_at(layers)
        assert update_ratio.LOOKED_AT / 2 < elements <= update_ratio.LOOKED_AT + parameters
