"""A run's own metric files, ``metrics.jsonl`` and TensorBoard's, wherever its storage is.

In: records. Out: files below the train artifact. On a local storage they are written in place; object stores cannot
append, so there the files are kept in a local scratch directory and uploaded whole: before a checkpoint is published
(so that the steps of every checkpoint have their records), with validations and events, and at the end. Records come
from the loop, and the wish to make them durable from the thread that saves: both may come at once.
"""

import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from rayllm.core import storage
from rayllm.core.log import BesideSink, JsonlSink, MetricSink, SinkGroup, Value
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
            sinks.append(BesideSink(TensorBoardSink(str(directory / TENSORBOARD))))
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
        self._writing, self._uploading = threading.Lock(), threading.Lock()
        if storage.exists(earlier := storage.join(uri, METRICS)):
            (self._scratch / METRICS).write_bytes(storage.read_bytes(earlier))
        self._files = LocalFiles(self._scratch, tensorboard=tensorboard)

    def write(self, record: Mapping[str, Value]) -> None:
        """Write one record, and upload with those that are rare."""
        with self._writing:
            self._files.write(record)
        if record["kind"] in UPLOADED_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Upload what has grown since the last time, whole lines of it."""
        with self._uploading:
            for path in sorted(path for path in self._scratch.rglob("*") if path.is_file()):
                with self._writing:
                    grown = self._uploaded.get(path) != path.stat().st_size
                    data = path.read_bytes() if grown else b""
                if grown:
                    storage.write_bytes(storage.join(self._uri, path.relative_to(self._scratch).as_posix()), data)
                    self._uploaded[path] = len(data)

    def close(self) -> None:
        """Upload the rest and remove the scratch directory."""
        self._files.close()
        self.flush()
        shutil.rmtree(self._scratch)
