"""Best-fit packing: speed against OLMo-core's packer, and padding.

Lengths: a million lognormal ones, and a million drawn from real documents of C4 and of GSM8K in GPT-2's tokens. OLMo-
core's packer places one document after the other by a segment tree; it gets the pieces of long documents ready-made,
ours cuts them too. Both are best-fit decreasing, so first the rows have to agree: as many, with the same number of
tokens in each once they are sorted; but where best-fit decreasing leaves more padding than need be, ours goes on to
fill rows exactly, and has to end with fewer. Then their times, in turn, one process and one thread each. Aims: 10
times, padding of 0.1 % at most.

Usage: best_fit.py [--documents N] [--seq-len N] [--rounds N]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from support.peers import REPO, alternate, describe_machine, median_ratio, peer_python
from tokenizers import Tokenizer

from rayllm.data.packing.best_fit import RowTable, pack_documents

DATA = Path(os.environ.get("RAYLLM_TEST_DATA") or REPO.parent / "shared" / "data")
REAL_TEXT = {"C4": "text/c4_en.jsonl", "GSM8K": "math/gsm8k_train.jsonl"}
AIM, MAX_PADDING = 10, 1e-3
#: Ours takes a fraction of a second: so many times it is repeated in one measurement.
REPEATS = 3


def lognormal_lengths(count: int) -> np.ndarray:
    """Lengths around 400 tokens with a long tail."""
    return np.maximum(1, np.random.default_rng(0).lognormal(6.0, 1.2, count)).astype(np.int64)


def real_lengths(name: str, count: int) -> np.ndarray:
    """Lengths of real documents with their separators, drawn with replacement."""
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizers/gpt2/tokenizer.json"))
    rows = [json.loads(line) for line in (DATA / REAL_TEXT[name]).read_text().split("\n") if line]
    texts = [row["text"] if "text" in row else f"{row['question']}\n{row['answer']}" for row in rows]
    found = np.array([len(encoding) + 1 for encoding in tokenizer.encode_batch_fast(texts)], np.int64)
    return np.random.default_rng(0).choice(found, count)


def cut(lengths: np.ndarray, seq_len: int) -> np.ndarray:
    """First token and end of every piece of at most a row's length."""
    full, rest = np.divmod(lengths, seq_len)
    counts = full + (rest > 0)
    ends = np.cumsum(lengths)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    first = np.repeat(ends - lengths, counts) + nth * seq_len
    return np.stack([first, np.minimum(first + seq_len, np.repeat(ends, counts))], axis=1).astype(np.uint64)


def ours(lengths: np.ndarray, seq_len: int) -> tuple[float, RowTable]:
    """Seconds from document bounds to the table of rows, and the table."""
    ends = np.cumsum(lengths)
    start = time.perf_counter()
    tables = [pack_documents(ends - lengths, int(ends[-1]), seq_len) for _ in range(REPEATS)]
    return (time.perf_counter() - start) / REPEATS, tables[-1]


def theirs(pieces: Path, seq_len: int, held: Path) -> float:
    """Seconds of OLMo-core's packer, which leaves the tokens of its rows."""
    script = str(REPO / "benchmarks" / "peers" / "olmo_core_packing.py")
    command = [peer_python("olmo_core"), script, str(pieces), str(seq_len), str(held)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def measure(name: str, lengths: np.ndarray, seq_len: int, rounds: int) -> bool:
    """Compare the rows, then the times; whether the aims are met."""
    with tempfile.TemporaryDirectory() as directory:
        pieces, held_by_peer = Path(directory) / "pieces.npy", Path(directory) / "held.npy"
        np.save(pieces, cut(lengths, seq_len))
        theirs(pieces, seq_len, held_by_peer)
        table = ours(lengths, seq_len)[1]
        held = np.add.reduceat(table.length.astype(np.int64), table.first_segment[:-1])
        assert held.sum() == lengths.sum(), "tokens were lost or doubled"
        theirs_held = np.load(held_by_peer)
        same = np.array_equal(np.sort(held), np.sort(theirs_held))
        assert theirs_held.sum() == held.sum()
        assert same or len(held) < len(theirs_held), "the rows differ, and there are no fewer of them"
        times = alternate([lambda: theirs(pieces, seq_len, held_by_peer), lambda: ours(lengths, seq_len)[0]], rounds)
    padding, peer_padding = (1 - lengths.sum() / (len(rows) * seq_len) for rows in (held, theirs_held))
    ratio = median_ratio(*times)
    medians = [statistics.median(side) for side in times]
    ratios = ", ".join(f"{a / b:.0f}" for a, b in zip(*times, strict=True))
    print(f"{name}: {len(lengths):,} documents, {(lengths > seq_len).sum():,} of them longer than {seq_len:,} tokens")
    print(f"  rows: {'the same on both sides' if same else 'ours fewer'}, {len(held):,} and {len(theirs_held):,}")
    print(f"  padding: ours {padding:.4%} (aim at most {MAX_PADDING:.1%}), OLMo-core {peer_padding:.4%}")
    print(f"  time: OLMo-core {medians[0]:.2f} s, ours {medians[1]:.3f} s ({len(lengths) / medians[1] / 1e6:.1f} M/s)")
    print(f"  ratio: {ratio:.0f} (aim {AIM}; rounds {ratios})")
    return ratio >= AIM and padding <= MAX_PADDING


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.environ["PIP_NO_DEPS"] = "1"  # the packer needs none of OLMo-core's requirements but numpy
    print(describe_machine())
    sides = {"lognormal": lognormal_lengths(args.documents)}
    if DATA.is_dir():
        sides |= {name: real_lengths(name, args.documents) for name in REAL_TEXT}
    else:
        print(f"no real lengths: {DATA} is not there")
    good = [measure(name, lengths, args.seq_len, args.rounds) for name, lengths in sides.items()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
