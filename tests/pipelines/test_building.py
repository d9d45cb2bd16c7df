"""What a config says of training arrives in the engine that is built from it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_session import make_config

from rayllm.model import compiler
from rayllm.model.config import ModelConfig
from rayllm.pipelines.train.building import build_engine, choose_compute
from rayllm.train.engine import Engine


def build(root: Path, **changes: Any) -> tuple[Engine, ModelConfig]:
    config = make_config(root, engine={"kind": "torch"}, **changes)
    model, engine = config.model.with_vocab(300), config.train.engine
    compute = choose_compute(config.train, "fp32", model, torch.device("cpu"), engine)
    return build_engine(config, model, engine, compute), model


@pytest.mark.parametrize(("precision", "compiles"), [("bf16", True), ("fp16", False)])
def test_whether_to_compile_depends_on_the_precision(
    precision: str, compiles: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "_obstacle", lambda *_, **__: "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    config = make_config(tmp_path, engine={"kind": "torch"}, attention="sdpa")
    found = choose_compute(config.train, precision, config.model, torch.device("cuda"), config.train.engine)
    assert (found.precision, found.compiled.enabled) == (precision, compiles)


@pytest.mark.parametrize("z_loss", [0.0, 0.25])
def test_the_loss_has_the_z_loss_that_was_asked_for(z_loss: float, tmp_path: Path) -> None:
    engine, model = build(tmp_path, z_loss=z_loss)
    tokens = torch.randint(model.resolved_vocab_size, (2, 17), generator=torch.Generator().manual_seed(1))
    ids, labels = tokens[:, :-1], tokens[:, 1:]
    with torch.no_grad():
        found, logits = engine.module.train()(ids, labels), engine.module.logits(ids)
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    expected = plain + z_loss * torch.logsumexp(logits.flatten(0, 1), dim=-1).square()
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-4)
