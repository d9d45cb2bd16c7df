"""Real text of several kinds, none of it repeated: what tokenizers are measured on.

In: the folder of real public data. Out: documents by domain; Python sources come from this Python's own library, so
there is text on every machine.
"""

import gzip
import json
import os
import random
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow.parquet as pq
from support.peers import REPO

DATA = Path(os.environ.get("RAYLLM_TEST_DATA") or REPO.parent / "shared" / "data")

FILES: dict[str, tuple[str, ...]] = {
    "web": (
        "text/c4_en.jsonl",
        "text/openwebtext.jsonl.gz",
        "text/dolma_cc_en_head.jsonl",
        "text/18f_blog.jsonl.gz",
        "text/digital_gov.parquet",
    ),
    "textbooks": ("text/openstax.parquet",),
    "technical": ("text/python_peps.jsonl.gz", "text/arxiv_20.jsonl"),
    "reference": ("text/world_factbook.jsonl.gz",),
    "math": ("math/gsm8k_train.jsonl",),
    "languages": ("text/udhr_multilingual.jsonl",),
}


def real_domains(max_bytes: int) -> dict[str, list[str]]:
    """The documents of each domain in an order that is mixed once and for all, ``max_bytes`` of each at most."""
    domains = {name: _read_all(files) for name, files in FILES.items()} if DATA.is_dir() else {}
    domains["code"] = list(_stdlib())
    for name, texts in domains.items():
        random.Random(name).shuffle(texts)
        domains[name] = list(head(texts, max_bytes))
    return domains


def mixed(domains: Mapping[str, Iterable[str]], max_bytes: int) -> list[str]:
    """Documents of all domains, mixed once and for all, ``max_bytes`` at most."""
    texts = [text for found in domains.values() for text in found]
    random.Random(0).shuffle(texts)
    return list(head(texts, max_bytes))


def head(texts: Iterable[str], max_bytes: int) -> Iterator[str]:
    """The first texts that fit."""
    for text in texts:
        max_bytes -= len(text.encode())
        if max_bytes < 0:
            return
        yield text


def size_of(texts: Iterable[str]) -> int:
    """UTF-8 bytes."""
    return sum(len(text.encode()) for text in texts)


def _read_all(files: Iterable[str]) -> list[str]:
    return [text for name in files for text in _read(DATA / name) if text]


def _read(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        return pq.read_table(path, columns=["text"]).column("text").to_pylist()
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = (json.loads(line) for line in data.split(b"\n") if line)
    return [row["text"] if "text" in row else f"{row['question']}\n{row['answer']}" for row in rows]


def _stdlib() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path.read_text(encoding="utf-8", errors="replace")
