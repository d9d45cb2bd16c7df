"""SuperBPE against BPE: the same vocabulary size, learned from the same text.

One document in five of each domain is held out. Both kinds learn from all the others; then bytes per token and
tokens per word are counted by domain, on text that was learned from and on text that was not, every document is
decoded again, and the learned tokens that cross words are counted. Training runs in a process of its own for each side
and round, in turn: seconds and peak memory are those of the training alone. Expected of SuperBPE: more bytes per token
on all domains together, learned from or not, and every text exact; in a domain of many small languages it may have
fewer, since less of the vocabulary is left for words.

Usage: superbpe.py [--vocab-size N] [--megabytes N] [--transition F] [--rounds N]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from support.peers import alternate, describe_machine
from support.real_text import real_domains, size_of
from tokenizers import Tokenizer

from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.comparison.candidates import Candidate, open_candidate
from rayllm.tokenizer.comparison.scores import Score, score
from rayllm.tokenizer.formats.byte_alphabet import unspell
from rayllm.tokenizer.superwords.superbpe import Superwords, count_words, train_superbpe

SIDES = ("bpe", "superbpe")
HELD_OUT = 5  # one document in so many
MAX_WORDS = 4


def train(side: str, texts_path: str, vocab_size: int, transition: int, out: str) -> None:
    """Train one side and print its seconds and its memory: what the process that is started for it does."""
    texts = json.loads(Path(texts_path).read_text())
    before = memory_kb("VmRSS")
    sizes = {"vocab_size": vocab_size, "min_frequency": 2, "max_digits": 3, "num_reserved": 4}
    start = time.perf_counter()
    if side == "bpe":
        data = train_bpe(iter(texts), **sizes)
    else:
        data = train_superbpe(lambda: iter(texts), Superwords(transition, MAX_WORDS), **sizes)
    seconds = time.perf_counter() - start
    Path(out).write_bytes(data)
    print(json.dumps({"seconds": seconds, "megabytes": (memory_kb("VmHWM") - before) / 1024}))


def memory_kb(name: str) -> int:
    """A line of what the kernel says of this process, such as its peak: unlike ``getrusage``, without its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(side: str, directory: Path, vocab_size: int, transition: int, found: list[dict]) -> float:
    """Train one side in a process of its own; returns its seconds."""
    files = (directory / "texts.json", vocab_size, transition, directory / f"{side}.json")
    command = [sys.executable, __file__, "--train", side, *map(str, files)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found.append(json.loads(done.stdout))
    return found[-1]["seconds"]


def crossing(tokenizer: Tokenizer) -> list[int]:
    """Words of each learned token that has more than one."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    counts = (count_words(unspell(token)) for token in tokenizer.get_vocab() if token not in special)
    return [count for count in counts if count > 1]


def table(title: str, candidates: Sequence[Candidate], texts: Mapping[str, Sequence[str]]) -> list[tuple[Score, ...]]:
    """Print the scores of both sides by domain; returns them, all domains together last."""
    rows = {name: tuple(score(candidate, found) for candidate in candidates) for name, found in texts.items()}
    first, *others = rows.values()
    rows["all"] = tuple(sum((row[side] for row in others), first[side]) for side in range(len(SIDES)))
    print(
        f"\n{title:12} {'MB':>6} {'bytes/token: bpe':>17} {'superbpe':>9} {'gain':>7} {'tokens/word':>18}  round trip"
    )
    for name, (bpe, superbpe) in rows.items():
        before, after = bpe.fit.bytes_per_token, superbpe.fit.bytes_per_token
        words = f"{bpe.fit.tokens_per_word:.3f} → {superbpe.fit.tokens_per_word:.3f}"
        exact = "exact" if bpe.round_trip and superbpe.round_trip else f"{bpe.changed}, {superbpe.changed} change"
        line = f"{before:17.3f} {after:9.3f} {after / before - 1:7.1%} {words:>18}  {exact}"
        print(f"{name:12} {bpe.fit.bytes / 1e6:6.2f} {line}")
    return list(rows.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--transition", type=float, default=0.9, help="share of the vocabulary within words")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(describe_machine())
    domains = real_domains(int(args.megabytes * 1e6 / 4))
    learned = {name: [text for i, text in enumerate(texts) if i % HELD_OUT] for name, texts in domains.items()}
    held = {name: texts[::HELD_OUT] for name, texts in domains.items()}
    transition = int(args.transition * args.vocab_size)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        texts = [text for found in learned.values() for text in found]
        (directory / "texts.json").write_text(json.dumps(texts))
        print(
            f"vocabulary {args.vocab_size:,}, stage 2 from {transition:,}, learned from {size_of(texts) / 1e6:.1f} MB"
        )
        runs: dict[str, list[dict]] = {side: [] for side in SIDES}
        sides = [partial(measure, side, directory, args.vocab_size, transition, runs[side]) for side in SIDES]
        alternate(sides, args.rounds)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        candidates = [open_candidate(str(directory / f"{side}.json"), side) for side in SIDES]
    for side, candidate in zip(SIDES, candidates, strict=True):
        seconds = [run["seconds"] for run in runs[side]]
        words = crossing(candidate.tokenizer)
        print(
            f"{side:9} {candidate.vocab_size:7,} ids, {len(words):6,} across words (at most {max(words, default=1)}); "
            f"trained in {statistics.median(seconds):.1f} s (rounds {', '.join(f'{s:.1f}' for s in seconds)}), "
            f"peak {max(run['megabytes'] for run in runs[side]):,.0f} MB above the text"
        )
    tables = [table("held out", candidates, held), table("learned from", candidates, learned)]
    exact = all(side.round_trip for rows in tables for row in rows for side in row)
    shorter = all(rows[-1][1].fit.tokens < rows[-1][0].fit.tokens for rows in tables)
    same = candidates[0].vocab_size == candidates[1].vocab_size == args.vocab_size
    if not same:
        print("the text does not fill the vocabulary: give more of it, or ask for a smaller vocabulary")
    return 0 if exact and shorter and same else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    else:
        sys.exit(main())
