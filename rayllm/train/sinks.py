"""Metric sinks of a run besides its JSONL file: TensorBoard and Weights & Biases."""

import os
import uuid
from collections.abc import Mapping
from typing import Any

from rayllm.core.log import Value

#: Fields that place a record and are not plotted.
HEAD = ("kind", "step", "attempt", "time", "total_steps")


def scalars(record: Mapping[str, Value]) -> dict[str, float]:
    """The numbers of a record, named ``kind/field``; text and missing values are left out."""
    return {
        f"{record['kind']}/{name}": float(value)
        for name, value in record.items()
        if name not in HEAD and isinstance(value, int | float) and not isinstance(value, bool)
    }


class TensorBoardSink:
    """Writes event files that TensorBoard reads."""

    def __init__(self, directory: str) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        self._summary, self._value = Summary, Summary.Value
        # File names hold the second: without a mark of its own, a quick restart would overwrite its predecessor's.
        self._writer = SummaryWriter(directory, filename_suffix=f".{uuid.uuid4().hex[:8]}")
        assert self._writer.file_writer is not None, "a writer that writes to disk has opened its file"
        self._events = self._writer.file_writer

    def write(self, record: Mapping[str, Value]) -> None:
        """Add the record's numbers, or a sample's text."""
        step = int(record["step"] or 0)
        if values := [self._value(tag=name, simple_value=value) for name, value in scalars(record).items()]:
            # One event for all: each on its own costs eight times as much, and wakes the writer's thread each time.
            self._events.add_summary(self._summary(value=values), step)
        if record["kind"] == "sample":
            self._writer.add_text(f"sample/{record['domain']}", f"{record['prompt']}{record['text']}", step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WandbSink:
    """Logs to Weights & Biases: offline unless a key is in the environment."""

    def __init__(self, project: str, name: str, directory: str, config: Mapping[str, Any], run_id: str) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        self._run = wandb.init(
            project=project,
            name=name,
            id=run_id,
            resume="allow",
            dir=directory,
            config=dict(config),
            mode=mode,  # pyright: ignore[reportArgumentType]
            settings=wandb.Settings(console="off", silent=True),
        )

    def write(self, record: Mapping[str, Value]) -> None:
        """Log the record's numbers."""
        self._run.log(scalars(record), step=int(record["step"] or 0))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
