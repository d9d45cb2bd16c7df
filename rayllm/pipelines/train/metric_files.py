"""A run's own metric files, ``metrics.jsonl`` and TensorBoard's, wherever its storage is.

In: records. Out: files below the train artifact. On a local storage they are written in place; object stores cannot
append, so there the files are kept in a local scratch directory and uploaded whole: before a checkpoint is published
(so that the steps of every checkpoint have their records), with validations and events, and at the end.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from rayllm.core import storage
from rayllm.core.log import JsonlSink, MetricSink, SinkGroup, Value
from rayllm.train.sinks import TensorBoardSink

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
#: Kinds of record that are rare and worth seeing at once.
UPLOADED_AT_ONCE = ("validation", "event")


class MetricFiles(MetricSink, Protocol):
    """A sink that can be asked to make durable what it was given."""

    def flush(self) -> None:
        """Return when every record so far would survive the end of this process."""
        ...


def open_metric_files(directory: str, *, tensorboard: bool) -> MetricFiles:
    """The files of a train artifact; those of earlier attempts are continued.

    Args:
        directory: URI of the artifact.
        tensorboard: Write TensorBoard event files too.
    """
    if storage.is_local(directory):
        return LocalFiles(storage.local_path(directory), tensorboard=tensorboard)
    return UploadedFiles(directory, tensorboard=tensorboard)


class LocalFiles:
    """Files that are written where they stay; each line is there at once."""

    def __init__(self, directory: Path, *, tensorboard: bool) -> None:
        sinks: list[MetricSink] = [JsonlSink(directory / METRICS)]
        if tensorboard:
            sinks.append(TensorBoardSink(str(directory / TENSORBOARD)))
        self._sinks = SinkGroup(sinks)

    def write(self, record: Mapping[str, Value]) -> None:
        """Write one record."""
        self._sinks.write(record)

    def flush(self) -> None:
        """Nothing to do: lines are handed to the operating system as they come."""

    def close(self) -> None:
        """Close the files."""
        self._sinks.close()


class UploadedFiles:
    """Files of a remote directory, kept in a scratch directory and uploaded when they have grown."""

    def __init__(self, uri: str, *, tensorboard: bool) -> None:
        self._uri, self._scratch = uri, Path(tempfile.mkdtemp(prefix="rayllm-metrics-"))
        self._uploaded: dict[Path, int] = {}
        if storage.exists(earlier := storage.join(uri, METRICS)):
            (self._scratch / METRICS).write_bytes(storage.read_bytes(earlier))
        self._files = LocalFiles(self._scratch, tensorboard=tensorboard)

    def write(self, record: Mapping[str, Value]) -> None:
        """Write one record, and upload with those that are rare."""
        self._files.write(record)
        if record["kind"] in UPLOADED_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Upload what has grown since the last time."""
        for path in sorted(self._scratch.rglob("*")):
            if path.is_file() and self._uploaded.get(path) != (size := path.stat().st_size):
                storage.upload(path, storage.join(self._uri, path.relative_to(self._scratch).as_posix()))
                self._uploaded[path] = size

    def close(self) -> None:
        """Upload the rest and remove the scratch directory."""
        self._files.close()
        self.flush()
        shutil.rmtree(self._scratch)
