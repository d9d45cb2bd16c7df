"""A corpus far larger than Ray's object store: documents go from file to file, only counts come to the driver."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayllm.core.artifact import read_artifact

#: The smallest store that Ray starts with, about.
OBJECT_STORE_BYTES = 80_000_000
CORPUS_BYTES = 20 * OBJECT_STORE_BYTES
FILES = 16
SENTENCES = 20_000
DRIVER_BYTES = 400_000_000
RUN = """
name: large
storage: runs
ray: {{num_cpus: 2, object_store_bytes: {store}}}
sources:
  web: {{kind: parquet, path: "text/*.parquet"}}
validation: {{heldout_frac: 0.01}}
prepare:
  near_duplicates: {{}}
  rules: {{prose: {{max_chars: null}}}}
train: {{tokens: 1M}}
"""


def texts(seed: int, size: int) -> Iterator[str]:
    """Documents of sentences in random order, no two alike, about ``size`` bytes in all."""
    random = Random(seed)
    words = [f"{random.choice('bdfgklmnprst')}{random.choice('aeiou')}{random.randrange(100)}" for _ in range(5000)]
    sentences = [" ".join(random.choices(words, k=20)) + "." for _ in range(SENTENCES)]
    while size > 0:
        text = "\n".join(random.choices(sentences, k=200))
        size -= len(text)
        yield text


def write_corpus(folder: Path) -> int:
    """Write the files; returns how many documents they hold."""
    folder.mkdir()
    documents = 0
    for number in range(FILES):
        column = list(texts(number, CORPUS_BYTES // FILES))
        pq.write_table(pa.table({"text": column}), folder / f"{number:02d}.parquet", row_group_size=500)
        documents += len(column)
    return documents


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """The most memory that a process itself, without those that it started, is seen to hold until it ends."""
    driver, held = psutil.Process(process.pid), 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            held = max(held, driver.memory_info().rss)
        time.sleep(0.2)
    return held


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_corpus_of_twenty_times_the_object_store_passes(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "text")
    (tmp_path / "run.yaml").write_text(RUN.format(store=OBJECT_STORE_BYTES))
    command = [sys.executable, "-m", "rayllm.cli", "prepare", "run.yaml"]
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}) as started:
        held = peak_bytes(started)
    assert started.returncode == 0
    assert held < DRIVER_BYTES
    (artifact,) = (tmp_path / "runs/data").glob("prepare-*")
    counts = read_artifact(str(artifact)).counts["domains"]["web"]
    assert counts["train"]["documents"] + counts["validation"]["documents"] == documents
    assert counts["train"]["bytes"] + counts["validation"]["bytes"] >= CORPUS_BYTES
