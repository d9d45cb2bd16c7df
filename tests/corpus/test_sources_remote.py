"""Sources behind http, s3, gs and hf: listed, cut and read through real clients, from servers in this process."""

import gzip
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_servers import Server, cloud_storage_server, hub_server, s3_store, web_server
from fsspec.registry import _registry

from rayllm.core.errors import DataError, SetupError
from rayllm.corpus.documents import Document, FileRef
from rayllm.corpus.files import opening
from rayllm.corpus.fingerprint import files_digest
from rayllm.corpus.sources import JsonlSource, ParquetSource, list_units

Read = Callable[..., list[Any]]
TEXTS = [f"text number {i} " + "x" * (i % 90) for i in range(500)]


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def parquet(texts: list[str], rows: int = 100) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "n": list(range(len(texts)))}), sink, row_group_size=rows)
    return sink.getvalue()


FILES = {
    "data/a.jsonl": jsonl(TEXTS[:300]),
    "data/b.jsonl.gz": gzip.compress(jsonl(TEXTS[300:])),
    "data/c.parquet": parquet(TEXTS),
}


def texts(rows: list[Any]) -> list[str]:
    return [row.text if isinstance(row, Document) else row for row in rows]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(opening, "RETRY_PAUSE_S", 0.01)
    with web_server(FILES) as server:
        yield server


# http


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("sizes", [True, False])
def test_web_servers_may_lack_ranges_and_sizes(web: Server, read: Read, ranges: bool, sizes: bool) -> None:
    web.ranges, web.sizes = ranges, sizes
    paths = [f"{web.url}/data/a.jsonl", f"{web.url}/data/b.jsonl.gz"]
    assert texts(read({"kind": "jsonl", "path": paths}, unit_bytes=4000)) == TEXTS
    source = ParquetSource(path=[f"{web.url}/data/c.parquet"], metadata=["n"])
    assert texts(read(source.model_dump(), unit_bytes=1)) == TEXTS
    assert len(list_units({"d": [source]}, "train", 1)) == (5 if ranges and sizes else 1)


def test_globs_work_where_a_web_server_lists_its_directories(web: Server, read: Read) -> None:
    assert texts(read({"kind": "jsonl", "path": f"{web.url}/data/*.jsonl*"})) == TEXTS


def test_a_glob_that_cannot_be_listed_tells_to_name_the_files(web: Server, read: Read) -> None:
    with pytest.raises(DataError, match=r"sources\.d: http[\s\S]*name every file: path: \[\.\.\.\]"):
        read({"kind": "jsonl", "path": f"{web.url}/none/*.jsonl"})


def test_a_missing_url_and_a_dead_server_are_told_apart(web: Server, read: Read) -> None:
    with pytest.raises(DataError, match=r"no such file[\s\S]*404"):
        read({"kind": "jsonl", "path": f"{web.url}/none.jsonl"})
    with pytest.raises(DataError, match="Cannot connect to host"):
        read({"kind": "jsonl", "path": "http://127.0.0.1:9/a.jsonl"})


def test_queries_are_sent_but_stay_out_of_the_corpus(web: Server, read: Read) -> None:
    rows = read({"kind": "jsonl", "path": f"{web.url}/data/b.jsonl.gz?signature=secret"})
    assert texts(rows) == TEXTS[300:]
    assert {row.source for row in rows} == {f"{web.url}/data/b.jsonl.gz"}
    assert any("signature=secret" in request for request in web.requests)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("failures", [3, -3])
def test_broken_connections_are_made_again_and_nothing_is_lost_or_doubled(
    web: Server, ranges: bool, failures: int
) -> None:
    file = FileRef(uri=f"{web.url}/data/c.parquet", label="c", bytes=len(FILES["data/c.parquet"]), seekable=ranges)
    web.ranges, web.failures = ranges, failures
    assert b"".join(opening.read_raw(file, 10, 1000)) == FILES["data/c.parquet"][10:]
    assert web.failures == 0


def test_a_server_that_stays_broken_is_an_error_after_some_attempts(web: Server) -> None:
    web.failures = -1000
    file = FileRef(uri=f"{web.url}/data/a.jsonl", label="a", bytes=len(FILES["data/a.jsonl"]))
    with pytest.raises((SetupError, OSError)):
        list(opening.read_raw(file, 0, 1000))
    assert web.failures == -1000 + opening.RETRIES + 1


def test_changed_contents_of_the_same_size_are_noticed(web: Server) -> None:
    source = JsonlSource(path=[f"{web.url}/data/a.jsonl"])
    before = files_digest([source], "s")
    assert before == files_digest([source], "s")
    web.files = {**FILES, "data/a.jsonl": FILES["data/a.jsonl"].replace(b"number 7", b"number 8")}
    assert files_digest([source], "s") != before


# s3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_store("sources-of-a-test", FILES) as uri:
        yield uri


def test_objects_of_s3_are_listed_cut_and_read(bucket: str, read: Read) -> None:
    assert texts(read({"kind": "jsonl", "path": f"{bucket}/data/*.jsonl*"}, unit_bytes=4000)) == TEXTS
    source = ParquetSource(path=[f"{bucket}/data/c.parquet"])
    assert texts(read(source.model_dump(), unit_bytes=1)) == TEXTS
    assert len(list_units({"d": [source]}, "train", 1)) == 5
    (file,) = source.files("s")
    assert (file.label, file.bytes) == (f"{bucket}/data/c.parquet", len(FILES["data/c.parquet"]))
    assert file.version


def test_a_missing_object_of_s3_is_named(bucket: str, read: Read) -> None:
    with pytest.raises(DataError, match=r"no file matches[\s\S]*sources\.d: s3://sources-of-a-test/none/\*"):
        read({"kind": "jsonl", "path": f"{bucket}/none/*"})


# gs


def test_objects_of_google_cloud_storage_are_listed_and_read(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    gcsfs = pytest.importorskip("gcsfs")
    logging.getLogger("gcsfs").setLevel(logging.ERROR)
    with cloud_storage_server({f"bucket/{name}": data for name, data in FILES.items()}) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        gcsfs.GCSFileSystem.clear_instance_cache()
        assert texts(read({"kind": "jsonl", "path": "gs://bucket/data/*.jsonl*"}, unit_bytes=4000)) == TEXTS
        assert texts(read({"kind": "parquet", "path": "gs://bucket/data/c.parquet"}, unit_bytes=1)) == TEXTS
    gcsfs.GCSFileSystem.clear_instance_cache()


def test_a_scheme_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(_registry, "gs", raising=False)
    with pytest.raises(SetupError, match="pip install gcsfs"):
        read({"kind": "jsonl", "path": "gs://bucket/a.jsonl"})


# hf

HUB = {f"datasets/org/set/{name}": data for name, data in FILES.items()}
#: Where the Hub is, is read when its package is imported, so the test needs a process of its own.
READ_HUB = """
import json, sys
from rayllm.corpus.documents import Document
from rayllm.corpus.readers import read_unit
from rayllm.corpus.sources import JsonlSource, ParquetSource, list_units

found = []
for source in (JsonlSource(path=["hf://datasets/org/set/data/*.jsonl*"]),
               ParquetSource(path=["hf://datasets/org/set/data/c.parquet"])):
    units = list_units({"d": [source]}, "train", 4000)
    assert all(file.version for unit in units for file in unit.files)
    rows = [row for unit in units for row in read_unit(unit, source, max_row_bytes=1 << 20, seed=0)]
    found.append([len(units), [row.text for row in rows if isinstance(row, Document)]])
print(json.dumps(found))
"""


def test_data_sets_of_the_hugging_face_hub_are_listed_cut_and_read() -> None:
    with hub_server(HUB) as server:
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", READ_HUB]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (lines, found), (groups, rows) = json.loads(done.stdout)
    assert found == rows == TEXTS
    assert lines > 2
    assert groups == 5
