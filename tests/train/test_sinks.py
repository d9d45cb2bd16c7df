import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayllm.train.sinks import TensorBoardSink, WandbSink, scalars

TRAIN: dict[str, Any] = {
    "kind": "train",
    "step": 3,
    "attempt": 1,
    "time": 1.5,
    "total_steps": 9,
    "loss": 2.5,
    "mfu": None,
}
VALIDATION: dict[str, Any] = {"kind": "validation", "step": 4, "attempt": 1, "time": 2.5, "bits_per_byte/code": 1.25}
SAMPLE: dict[str, Any] = {"kind": "sample", "step": 4, "domain": "code", "prompt": "def ", "text": "main():"}


def events(directory: Path) -> Iterator[Any]:
    """The events of the only event file of a directory; the format is TFRecord: length, CRC, data, CRC."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    (path,) = directory.glob("events.out.tfevents.*")
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_only_the_numbers_of_a_record_are_plotted() -> None:
    assert scalars(TRAIN) == {"train/loss": 2.5}
    assert scalars({"kind": "train", "step": 1, "tokens": 7, "ok": True, "text": "x"}) == {"train/tokens": 7.0}
    assert scalars(SAMPLE) == {}


def test_tensorboard_reads_numbers_at_their_steps_and_the_samples(tmp_path: Path) -> None:
    sink = TensorBoardSink(str(tmp_path / "tensorboard"))
    for record in (TRAIN, VALIDATION, SAMPLE):
        sink.write(record)
    sink.close()
    found = [(event.step, value) for event in events(tmp_path / "tensorboard") for value in event.summary.value]
    numbers = {(step, value.tag): value.simple_value for step, value in found if value.HasField("simple_value")}
    assert numbers == {(3, "train/loss"): 2.5, (4, "validation/bits_per_byte/code"): 1.25}
    texts = {value.tag: value.tensor.string_val[0] for _, value in found if value.HasField("tensor")}
    assert [text for tag, text in texts.items() if tag.startswith("sample/code")] == [b"def main():"]


def test_a_second_attempt_adds_a_file_to_the_same_directory(tmp_path: Path) -> None:
    for _ in range(2):
        sink = TensorBoardSink(str(tmp_path))
        sink.write(TRAIN)
        sink.close()
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


def test_wandb_without_a_key_writes_offline_and_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    sink = WandbSink("project", "tiny", str(tmp_path), {"seed": 1}, "abc123")
    sink.write(TRAIN)
    sink.write(VALIDATION)
    sink.close()
    (run,) = (tmp_path / "wandb").glob("offline-run-*-abc123")
    (log,) = run.glob("*.wandb")
    assert log.stat().st_size > 0
