"""Speed of encoding: real text to a uint16 buffer with a vocabulary of 32,768, on one CPU.

Against Hugging Face's ``encode_batch_fast`` and OpenAI's tiktoken with the same vocabulary, which is trained here. The
text is real and not repeated (web pages, textbooks, technical documents, mathematics, code, 39 languages). Every
measurement is a process of its own, bound to one CPU, with all thread pools of one thread: so the first pass over the
text meets empty caches, as a new worker does; a second pass over the same text shows what caches can give at most.
Ids are compared for every document before any time is believed: ours must be Hugging Face's without exception. Aims, on
the first pass: 10 times Hugging Face, 2.5 times tiktoken.

Usage: encode.py [--megabytes N] [--train-megabytes N] [--rounds N]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from support.peers import REPO, alternate, describe_machine, median_ratio, peer_python
from support.real_text import mixed, real_domains, size_of

from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.comparison.scores import batches_of
from rayllm.tokenizer.freeze import freeze

VOCAB_SIZE = 32_768
SIDES = ("rayllm", "tokenizers", "tiktoken")
AIMS = {"tokenizers": 10.0, "tiktoken": 2.5}
ONE_THREAD = {
    "TOKENIZERS_PARALLELISM": "false",
    "RAYON_NUM_THREADS": "1",
    "FASTOKENS_BPE_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
SCRIPT = REPO / "benchmarks" / "peers" / "encode_texts.py"


class Bench:
    """Texts and a tokenizer in a directory, and the measurements so far."""

    def __init__(self, directory: Path, texts: list[str], train_bytes: int) -> None:
        self.directory, self.texts = directory, texts
        self.passes: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        self._cpu = max(os.sched_getaffinity(0))
        (directory / "batches.json").write_text(json.dumps(list(batches_of(texts))))
        start = time.perf_counter()
        learned = mixed({"": texts}, train_bytes)
        data = train_bpe(iter(learned), vocab_size=VOCAB_SIZE, min_frequency=2, max_digits=3, num_reserved=4)
        freeze(data, str(directory))
        seconds = time.perf_counter() - start
        print(f"vocabulary of {VOCAB_SIZE:,} learned from {size_of(learned) / 1e6:.1f} MB in {seconds:.0f} s")

    def measure(self, side: str) -> float:
        """Run one side once; returns the seconds of its first pass."""
        python = sys.executable if side == "rayllm" else peer_python("tokenizers")
        files = (self.directory, self.directory / "batches.json", self._cpu, self.directory / f"{side}.npz")
        command = [python, str(SCRIPT), side, *map(str, files)]
        environment = {**os.environ, **ONE_THREAD}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        self.passes[side].append(json.loads(done.stdout))
        return self.passes[side][-1]["first"]

    def differing(self, side: str) -> list[int]:
        """Numbers of the documents for which a side gives other ids than Hugging Face."""
        mine, wanted = (np.load(self.directory / f"{name}.npz") for name in (side, "tokenizers"))
        parts = [np.split(found["ids"], np.cumsum(found["lengths"])[:-1]) for found in (mine, wanted)]
        assert len(parts[0]) == len(parts[1]) == len(self.texts)
        return [i for i, (a, b) in enumerate(zip(*parts, strict=True)) if not np.array_equal(a, b)]

    def rates(self, side: str, which: str) -> list[float]:
        """MB/s of each round."""
        return [size_of(self.texts) / 1e6 / passed[which] for passed in self.passes[side]]


def report(bench: Bench) -> bool:
    """Print what was measured; whether the aims are reached."""
    good = True
    print(f"\n{'MB/s on one CPU':18} {'first pass':>12} {'second pass':>12} {'rounds (first pass)':>40}")
    for side in SIDES:
        first, warm = bench.rates(side, "first"), bench.rates(side, "warm")
        rounds = ", ".join(f"{rate:.1f}" for rate in first)
        print(f"{side:18} {statistics.median(first):12.1f} {statistics.median(warm):12.1f} {rounds:>40}")
    for side, aim in AIMS.items():
        first, warm = (median_ratio(bench.rates("rayllm", w), bench.rates(side, w)) for w in ("first", "warm"))
        good &= first >= aim
        print(f"rayllm / {side}: {first:.1f} times (aim {aim:g}), second pass {warm:.1f} times")
    ready = statistics.median(passed["ready"] for passed in bench.passes["rayllm"])
    print(f"getting ready (load, and compare both encoders on the probe): {ready:.1f} s a process")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=40)
    parser.add_argument("--train-megabytes", type=float, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["PIP_NO_DEPS"] = "1"  # the lock names what the two libraries need here
    print(describe_machine())
    domains = real_domains(int(args.megabytes * 1e6 / 3))
    texts = mixed(domains, int(args.megabytes * 1e6))
    print(f"{size_of(texts) / 1e6:.1f} MB in {len(texts):,} documents: {', '.join(domains)}")
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), texts, int(args.train_megabytes * 1e6))
        alternate([partial(bench.measure, side) for side in SIDES], args.rounds)
        ours, tiktokens = bench.differing("rayllm"), bench.differing("tiktoken")
        print(f"ids: rayllm differs from tokenizers in {len(ours)} documents, tiktoken in {len(tiktokens)}")
        good = report(bench)
    return 0 if good and not ours else 1


if __name__ == "__main__":
    sys.exit(main())
