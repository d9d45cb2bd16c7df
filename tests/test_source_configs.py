"""The source configs that come with the project, read from stand-ins for where the real data sets are.

Each set is served in a file of the real one's name, format and columns, by the Hub's protocol, by a plain web server
and by an S3 store.
"""

import gzip
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from file_servers import hub_server, s3_store, web_server
from pydantic import TypeAdapter

from rayllm.corpus.documents import BadRow, Document, Unwanted
from rayllm.corpus.readers import READERS, read_unit
from rayllm.corpus.sources import SourceList, list_units

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "sources"
HUB = "hf://datasets/"
ROWS = 40


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=16)
    return sink.getvalue()


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def text(number: int) -> str:
    return f"Document {number} of a set says that {number} times two is {2 * number}."


def code(number: int, **fields: Any) -> dict[str, Any]:
    return {"content": f"x{number} = {number}\n", "size": 10, **fields}


#: For each config: name of a file of the set, its bytes, and the first document.
SETS: dict[str, tuple[str, Callable[[list[int]], bytes], str]] = {
    "fineweb-edu": (
        "HuggingFaceFW/fineweb-edu/sample/10BT/000_00000.parquet",
        lambda numbers: parquet(
            [
                {
                    "text": text(n),
                    "id": f"<urn:uuid:{n}>",
                    "dump": "CC-MAIN-2013-20",
                    "url": f"http://example.org/{n}",
                    "file_path": "s3://commoncrawl/crawl-data/CC-MAIN-2013-20/segments/1.warc.gz",
                    "language": "en",
                    "language_score": 0.96,
                    "token_count": 12,
                    "score": 3.1,
                    "int_score": 3,
                }
                for n in numbers
            ]
        ),
        text(0),
    ),
    "c4": (
        "allenai/c4/en/c4-train.00003-of-01024.json.gz",
        lambda numbers: jsonl(
            [{"text": text(n), "timestamp": "2019-04-25T12:57:54Z", "url": f"https://example.org/{n}"} for n in numbers]
        ),
        text(0),
    ),
    "wikipedia": (
        "wikimedia/wikipedia/20231101.en/train-00000-of-00041.parquet",
        lambda numbers: parquet(
            [
                {"id": str(n), "url": f"https://en.wikipedia.org/wiki/{n}", "title": f"T{n}", "text": text(n)}
                for n in numbers
            ]
        ),
        "T0\n\n" + text(0),
    ),
    "gsm8k": (
        "openai/gsm8k/main/train-00000-of-00001.parquet",
        lambda numbers: parquet(
            [{"question": f"What is {n}+1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in numbers]
        ),
        "What is 0+1?\nIt is 1.\n#### 1",
    ),
    "the-stack": (
        "bigcode/the-stack-dedup/data/python/data-00000-of-00144.parquet",
        lambda numbers: parquet(
            [
                code(
                    n,
                    hexsha=f"{n:040x}",
                    ext="py",
                    lang="Python",
                    max_stars_repo_path=f"src/x{n}.py",
                    max_stars_repo_name="someone/something",
                    max_stars_repo_licenses=["MIT"] if n % 4 else ["MIT", "GPL-3.0-only"] if n else ["Apache-2.0"],
                    max_stars_count=n,
                )
                for n in numbers
            ]
        ),
        "x0 = 0\n",
    ),
    "codeparrot": (
        "codeparrot/codeparrot-clean/file-000000000001.json.gz",
        lambda numbers: jsonl(
            [
                code(
                    n, repo_name="a/b", path=f"x{n}.py", copies="1", license="gpl-3.0" if n % 4 == 3 else "mit", hash=n
                )
                for n in numbers
            ]
        ),
        "x0 = 0\n",
    ),
    "tinystories": (
        "roneneldan/TinyStories/data/train-00000-of-00004-2d5a1467fff1081b.parquet",
        lambda numbers: parquet([{"text": text(n)} for n in numbers]),
        text(0),
    ),
}
#: Rows that the licences of a set leave out.
LEFT_OUT = {"the-stack": 9, "codeparrot": 10}
FILES = {name: make(list(range(ROWS))) for name, make, _ in SETS.values()}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())


def read(sources: dict[str, Any]) -> list[list[Any]]:
    """Document texts, reasons of what was left out, and bad rows, of all domains."""
    parsed = TypeAdapter(dict[str, SourceList]).validate_python(sources)
    found: list[list[Any]] = [[], [], []]
    for unit in list_units(parsed, "train", 1):
        for row in read_unit(unit, parsed[unit.domain][unit.source], max_row_bytes=1 << 20, seed=0):
            if isinstance(row, Document):
                found[0].append(row.text)
                assert row.metadata or not parsed[unit.domain][unit.source].model_dump().get("metadata")
            elif isinstance(row, Unwanted):
                found[1].append(row.reason)
            elif isinstance(row, BadRow):
                found[2].append(row.detail)
    return found


def moved(name: str, root: str) -> dict[str, Any]:
    """The same sources somewhere else; a web server is given the file's name, for it lists nothing."""
    (domain,) = (sources := load(name))
    path = sources[domain]["path"].removeprefix(HUB)
    path = next(file for file in FILES if fnmatch(file, path)) if root.startswith("http") else path
    return {domain: {**sources[domain], "path": f"{root}/{path}"}}


def check(name: str, found: list[list[Any]]) -> None:
    documents, left_out, bad = found
    assert bad == []
    assert documents[0] == SETS[name][2]
    assert left_out == ["license_not_allowed"] * LEFT_OUT.get(name, 0)
    assert len(documents) == ROWS - len(left_out)


def test_every_set_that_is_downloaded_is_here() -> None:
    named = {path.stem for path in CONFIGS.glob("*.yaml") if HUB in path.read_text()}
    assert named == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_a_set_says_its_licence(name: str) -> None:
    assert all(source["license"] for source in load(name).values())


def test_all_sets_are_read_from_the_hub() -> None:
    script = """if True:
        import json, sys
        from test_source_configs import read
        print(json.dumps([read(sources) for sources in json.load(sys.stdin)]))
    """
    with hub_server({f"datasets/{name}": data for name, data in FILES.items()}) as hub:
        folders = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent / "support"), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": folders},
            input=json.dumps([load(name) for name in SETS]),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    for name, found in zip(SETS, json.loads(done.stdout), strict=True):
        check(name, found)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("ranges", [True, False])
def test_a_set_is_read_from_a_web_server(name: str, ranges: bool) -> None:
    with web_server(FILES) as server:
        server.ranges = ranges
        check(name, read(moved(name, server.url)))


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_store("sets-of-a-test", FILES) as uri:
        yield uri


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_from_s3(name: str, bucket: str) -> None:
    check(name, read(moved(name, bucket)))


def test_the_examples_of_the_page_about_sources_load() -> None:
    page = (CONFIGS.parents[1] / "docs" / "data-sources.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)]
    kinds = set()
    for block in blocks:
        for section in (block.get("sources", {}), block.get("validation", {}).get("sources", {})):
            plain = {name: source for name, source in section.items() if name != "base" and source is not None}
            parsed = TypeAdapter(dict[str, SourceList]).validate_python(plain)
            kinds |= {source.kind for sources in parsed.values() for source in sources}
    assert kinds == set(READERS)
