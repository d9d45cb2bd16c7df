"""Decontamination: what is found of planted evaluation items, what is found in clean text, and how fast.

Items: GSM8K's test questions and HumanEval's prompts with solutions. Clean text: C4, the standard library, GSM8K's
training set. The other side is a set of 13-word tuples in plain Python, which has to find the same documents; both are
timed in turn, in one process and one thread. Aim: 20 MB/s a core.

Usage: decontaminate.py [--rounds N]; the data are those of the tests (RAYLLM_TEST_DATA).
"""

import argparse
import json
import os
import re
import sysconfig
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from support.peers import REPO, alternate, describe_machine, median_ratio

from rayllm.corpus.overlap.decontaminate import DecontaminationConfig
from rayllm.corpus.overlap.ngram_index import NgramIndex

DATA = Path(os.environ.get("RAYLLM_TEST_DATA") or REPO.parent / "shared" / "data")
AIM_MB_PER_S = 20
CONFIG = DecontaminationConfig.model_validate(
    {
        "sets": {
            "gsm8k": {"kind": "jsonl", "path": str(DATA / "math/gsm8k_test_even.jsonl"), "text": "question"},
            "humaneval": {
                "kind": "jsonl",
                "path": str(DATA / "eval/humaneval_even.jsonl"),
                "template": "{prompt}{canonical_solution}",
                "id": "task_id",
            },
        }
    }
)
WORD = re.compile(r"[^\W_]+")


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / path).read_bytes().split(b"\n") if line]


def plain_runs(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return {tuple(words[place : place + CONFIG.ngram]) for place in range(len(words) - CONFIG.ngram + 1)}


def plain_find(texts: Sequence[str], items: set[tuple[str, ...]]) -> list[bool]:
    return [not items.isdisjoint(plain_runs(text)) for text in texts]


def seconds_of_index(index: NgramIndex, texts: Sequence[str]) -> float:
    start = time.perf_counter()
    index.find(texts)
    return time.perf_counter() - start


def seconds_of_plain(items: set[tuple[str, ...]], texts: Sequence[str]) -> float:
    start = time.perf_counter()
    plain_find(texts, items)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Decontamination: finds, false finds, speed.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    start = time.perf_counter()
    index = CONFIG.build("bench")
    print(f"{describe_machine()}\n{len(index.items)} items indexed in {time.perf_counter() - start:.2f} s")
    items = set[tuple[str, ...]]().union(*(plain_runs(item.text) for item in index.items))
    web = [row["text"] for row in rows("text/c4_en.jsonl")]
    library = Path(sysconfig.get_path("stdlib"))
    code = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(library.glob("*/*.py"))]
    sources = {
        "C4": web,
        "standard library": code,
        "GSM8K train": [f"{row['question']}\n{row['answer']}" for row in rows("math/gsm8k_train.jsonl")],
        "planted in C4": [f"{web[place]}\n{item.text}" for place, item in enumerate(index.items)],
    }
    print(f"{'documents':18} {'number':>7} {'MB':>6} {'found':>6} {'plain':>6} {'MB/s':>6} {'times plain':>12}")
    for name, texts in sources.items():
        found, plain = [match is not None for match in index.find(texts)], plain_find(texts, items)
        size = sum(len(text.encode()) for text in texts) / 1e6
        sides = [partial(seconds_of_index, index, texts), partial(seconds_of_plain, items, texts)]
        ours, theirs = alternate(sides, rounds)
        rate = size / sorted(ours)[len(ours) // 2]
        ratio = median_ratio(theirs, ours)
        print(f"{name:18} {len(texts):7,} {size:6.1f} {sum(found):6,} {sum(plain):6,} {rate:6.0f} {ratio:12.1f}")
        if found != plain:
            raise SystemExit(f"{name}: the sides find different documents; the times say nothing")
    print(f"aim: {AIM_MB_PER_S} MB/s a core")


if __name__ == "__main__":
    main()
