"""A session in each precision: what was chosen is said, written down, frozen in checkpoints, and gone on with."""

import json
from pathlib import Path

import pytest
from packing_fixture import make_packed
from small_session import all_records, make_config

from rayllm.core import storage
from rayllm.core.checkpoint import list_checkpoints
from rayllm.core.errors import SetupError
from rayllm.pipelines.train.session import train_alone


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_packed(tmp_path_factory.mktemp("packed"), count=80).uri


def start(packed: str, directory: Path, **changes: object) -> dict[str, float]:
    config = make_config(directory, max_steps=4, samples={"max_new_tokens": 1}, **changes)
    return train_alone(config, packed, str(directory))


@pytest.mark.parametrize(
    ("precision", "settings"), [("fp16", {}), ("fp8", {"fp8": {"recipe": "rowwise", "emulate": True}})]
)
def test_what_was_chosen_is_written_down(packed: str, tmp_path: Path, precision: str, settings: dict) -> None:
    if precision == "fp8":
        pytest.importorskip("torchao")
    losses = start(packed, tmp_path, precision=precision, **settings)
    assert 0 < losses["mean_loss"] < 20
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["precision"] == precision
    assert environment["fp8"] == settings.get("fp8")
    assert environment["attention"] == {"kernel": "sdpa", "why": "the CPU has no other"}
    said = [(record["level"], record["message"]) for record in all_records(str(tmp_path), "event")]
    (line,) = [message for level, message in said if level == "info" and message.startswith("computes in")]
    assert line.startswith(f"computes in {precision}, attention by sdpa (the CPU has no other), not compiled (")
    assert environment["compile"]["enabled"] is False
    assert any("slower than bf16" in text for level, text in said if level == "warning") == (precision == "fp8")
    saved = list_checkpoints(str(tmp_path / "checkpoints"))[-1].uri
    state = json.loads(storage.read_bytes(storage.join(saved, "state.json")))
    assert state["precision"] == precision
    assert bool(state["loss_scale"]) == (precision == "fp16")
    assert (all_records(str(tmp_path), "train")[-1].get("loss_scale") is not None) == (precision == "fp16")


def test_a_run_goes_on_in_the_precision_of_its_checkpoint(packed: str, tmp_path: Path) -> None:
    start(packed, tmp_path, precision="fp16")
    start(packed, tmp_path, precision="auto")
    assert json.loads((tmp_path / "environment.json").read_text())["precision"] == "fp16"


def test_fp8_without_hardware_and_attention_without_a_gpu_end_the_run_before_it_begins(
    packed: str, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    with pytest.raises(SetupError, match=r"train\.fp8\.emulate=true") as caught:
        start(packed, tmp_path, precision="fp8")
    assert caught.value.exit_code == 3
    with pytest.raises(SetupError, match=r"train\.attention=auto"):
        start(packed, tmp_path, attention="flex")
    assert not (tmp_path / "environment.json").exists()
