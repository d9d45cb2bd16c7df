"""Quality rules against datatrove's filters, set by set, and the learned classifier: outcome first, then speed.

Both sides judge the same cleaned pages of C4 in one process and one thread, in turn; datatrove runs in an environment
of its own, where starting, importing and a warm-up are not counted. Before any time is shown the documents that only
one side keeps are listed: more than one in two hundred of a set, and the times say nothing. C4's rules are for lines
and pages, on both sides. Then the classifier: trained on pages that people have judged, its AUC on held-out pages
beside that of length alone, and how fast it scores. Aims: 8 MB/s a core for all rules, and for the scores.

Usage: quality.py [--megabytes M] [--rounds N]; the data are those of the tests (RAYLLM_TEST_DATA).
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from support.peers import REPO, alternate, describe_machine, median_ratio, peer_python

from rayllm.corpus.classifier import ClassifierConfig, train
from rayllm.corpus.classifier.examples import read_examples
from rayllm.corpus.clean import Boilerplate, CleanByContent, CleanSettings, clean_text
from rayllm.corpus.quality import Rules, broken_rules
from rayllm.corpus.quality.c4 import C4
from rayllm.corpus.quality.fineweb import FineWeb
from rayllm.corpus.quality.gopher import GopherQuality
from rayllm.corpus.quality.repetition import GopherRepetition

DATA = Path(os.environ.get("RAYLLM_TEST_DATA") or REPO.parent / "shared" / "data") / "text"
AIM_MB_PER_S = 8
#: Documents that the sides may judge differently, see docs/quality-rules.md.
MAX_DIFFERING_FRAC = 1 / 200
LINES = CleanSettings(boilerplate=Boilerplate())
_QUALITY, _REPETITION, _FINEWEB = GopherQuality(marks_are_words=True), GopherRepetition(), FineWeb()
RULES = {
    "gopher_quality": Rules(max_chars=None, gopher_quality=_QUALITY),
    "gopher_repetition": Rules(max_chars=None, gopher_repetition=_REPETITION),
    "fineweb": Rules(max_chars=None, fineweb=_FINEWEB),
    "c4": Rules(max_chars=None, c4=C4()),
    "sequence": Rules(max_chars=None, gopher_quality=_QUALITY, fineweb=_FINEWEB, gopher_repetition=_REPETITION),
}


class Peer:
    """datatrove's filters, run on the texts as often as asked; each run leaves its times and its verdicts."""

    def __init__(self, texts: Sequence[str], folder: Path) -> None:
        self.folder = folder
        (folder / "texts.json").write_text(json.dumps(texts))

    def run(self) -> dict[str, float]:
        script, names = REPO / "benchmarks/peers/datatrove_filters.py", ("texts", "found", "seconds")
        paths = [self.folder / f"{name}.json" for name in names]
        subprocess.run([peer_python("datatrove"), script, *paths], check=True, stderr=subprocess.DEVNULL)
        return json.loads(paths[2].read_text())

    def found(self) -> dict[str, list[str | None]]:
        return json.loads((self.folder / "found.json").read_text())


def judge(name: str, texts: Sequence[str]) -> list[str | None]:
    if name == "c4":
        texts = [clean_text(text, LINES) for text in texts]
    return broken_rules(texts, RULES[name])


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pages(megabytes: float) -> list[str]:
    texts, size = [], 0
    for row in (DATA / "c4_en.jsonl").read_text("utf-8").split("\n"):
        if row and size < megabytes * 1e6 and (text := clean_text(json.loads(row)["text"])):
            texts.append(text)
            size += len(text.encode())
    return texts


def compare_rules(texts: list[str], rounds: int) -> None:
    size = sum(len(text.encode()) for text in texts) / 1e6
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in RULES}
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(texts, Path(folder))
        ours = {name: judge(name, texts) for name in RULES}  # a warm-up too
        peer.run()
        check_verdicts(ours, peer.found())

        def run_ours() -> float:
            for name, (mine, _) in times.items():
                mine.append(seconds(partial(judge, name, texts)))
            return 0.0

        def run_theirs() -> float:
            for name, value in peer.run().items():
                times[name][1].append(value)
            return 0.0

        alternate([run_ours, run_theirs], rounds)
    print(f"\n{len(texts):,} pages, {size:.1f} MB, one thread; medians of {rounds} pairs")
    print(f"{'rules':20} {'MB/s':>7} {'datatrove':>10} {'times':>7}")
    for name, (mine, theirs) in times.items():
        rates = [size / statistics.median(side) for side in (mine, theirs)]
        print(f"{name:20} {rates[0]:7.1f} {rates[1]:10.2f} {median_ratio(theirs, mine):7.0f}")
    print(f"aim: {AIM_MB_PER_S} MB/s for the sequence")


def check_verdicts(ours: dict[str, list[str | None]], theirs: dict[str, list[str | None]]) -> None:
    for name, verdicts in ours.items():
        pairs = list(enumerate(zip(verdicts, theirs[name], strict=True)))
        differing = [(place, a, b) for place, (a, b) in pairs if (a is None) != (b is None)]
        dropped = sum(verdict is not None for verdict in verdicts)
        print(f"{name}: {dropped:,} of {len(verdicts):,} dropped, {len(differing)} judged differently")
        for place, a, b in differing:
            print(f"  page {place}: here {a or 'kept'}, there {b or 'kept'}")
        if len(differing) > MAX_DIFFERING_FRAC * len(verdicts):
            raise SystemExit(f"{name}: the sides judge too many pages differently; the times say nothing")


def measure_classifier(texts: list[str], rounds: int) -> None:
    source = {"kind": "jsonl", "path": str(DATA / "dclm_quality_labeled.jsonl")}
    config = ClassifierConfig.model_validate({"examples": source})
    examples = list(read_examples(config, CleanByContent(), "bench"))
    start = time.perf_counter()
    classifier, report = train(examples, config, "bench")
    print(f"\nclassifier: {len(examples)} examples, {config.folds + 1} fits in {time.perf_counter() - start:.1f} s")
    print(f"held-out AUC {report.auc:.3f}, of length alone {report.auc_of_length:.3f}")
    print(f"at {report.min_score}: {report.good_kept:.1%} of the good kept, {report.bad_kept:.1%} of the bad")
    size = sum(len(text.encode()) for text in texts) / 1e6
    (times,) = alternate([lambda: seconds(lambda: classifier.score(texts))], rounds)
    print(f"scores {size / statistics.median(times):.1f} MB/s a core; aim: {AIM_MB_PER_S}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality rules and classifier: outcome and speed.")
    parser.add_argument("--megabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(describe_machine())
    texts = pages(arguments.megabytes)
    compare_rules(texts, arguments.rounds)
    measure_classifier(texts, arguments.rounds)


if __name__ == "__main__":
    main()
