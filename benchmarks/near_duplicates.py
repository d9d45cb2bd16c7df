"""Near-duplicates: speed against datatrove and datasketch, and what is found against exact similarity.

Text: real documents and near-copies of them, 19 documents for each original. All sides have FineWeb's parameters: runs
of 5 words, 14 bands of 8 hashes. First what the sides find is compared: of the copies with a similarity of 0.85 or more
each has to find 95 %, and they have to drop the same documents but for chance. Then their times, in turn, one process
and one thread each:

- signatures: texts to sorted band hashes in a file, against datatrove's signature stage with its default words by
  spaCy, and with words split at white space. Aim: 25 times.
- end to end: texts to the documents that go, against datasketch. Aim: 4 times.

Usage: near_duplicates.py [FILE.jsonl] [--texts N] [--rounds N]
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from support.near_copies import TITLE, Trial, judge, latin, plant
from support.peers import REPO, alternate, describe_machine, median_ratio, peer_python

from rayllm.corpus.overlap.clusters import find_losses, find_pairs
from rayllm.corpus.overlap.minhash import NearDuplicatesConfig, band_hashes

CONFIG = NearDuplicatesConfig()
DATA = Path(os.environ.get("RAYLLM_TEST_DATA") or REPO.parent / "shared" / "data")
MIN_RECALL = 0.95
#: Of what either side drops, both have to drop this share: copies of middling similarity are found by chance.
MIN_AGREEMENT = 0.85
AIMS = {"datatrove, spaCy": 25, "datatrove, split": 25, "datasketch": 4}
#: Ours takes milliseconds: so many times it is repeated in one measurement.
REPEATS = 10


def peer(name: str, script: str, texts: Path, bands: Path, *more: str) -> float:
    """Run a peer's script, which leaves its band hashes; the seconds that it measured."""
    command = [peer_python(name), str(REPO / "benchmarks" / "peers" / script), str(texts), str(bands), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def signatures_to_file(texts: Sequence[str], path: Path) -> float:
    """Seconds of what corresponds to datatrove's first stage: band hashes in a file, sorted by band and hash."""
    start = time.perf_counter()
    for _ in range(REPEATS):
        bands = band_hashes(texts, CONFIG)
        order = np.argsort(bands, axis=0, kind="stable")
        np.save(path, np.stack([np.take_along_axis(bands, order, axis=0), order.astype(np.uint64)]))
    return (time.perf_counter() - start) / REPEATS


def texts_to_losses(texts: Sequence[str]) -> float:
    """Seconds from texts to the documents that go."""
    start = time.perf_counter()
    for _ in range(REPEATS):
        losses_of(band_hashes(texts, CONFIG))
    return (time.perf_counter() - start) / REPEATS


def losses_of(bands: np.ndarray) -> np.ndarray:
    """The documents that go, all for training, ranked by place."""
    numbers = np.arange(len(bands), dtype=np.int64)
    pairs = [find_pairs(band, bands[:, band], numbers) for band in range(bands.shape[1])]
    return find_losses(np.concatenate(pairs)).documents


def show(trial: Trial) -> None:
    print("", TITLE, *trial.kinds, "", TITLE, *trial.levels, sep="\n")
    shares = ", ".join(f"{share:.3f} with {level} or more" for level, share in trial.precision.items())
    print(f"\n{trial.pairs:,} pairs share a band; of them have a similarity of: {shares}")


def compare(sides: dict[str, np.ndarray], planted: list, documents: Sequence[str]) -> None:
    """Check what each side finds, and that they drop the same documents but for chance."""
    ours = set(losses_of(sides["rayllm"]).tolist())
    for name, bands in sides.items():
        recall = judge(planted, documents, bands, CONFIG, pairs=False).recall(0.85)
        lost = set(losses_of(bands).tolist())
        agreement = len(lost & ours) / len(lost | ours)
        print(
            f"{name:18} finds {recall:.4f} of the copies with a similarity of 0.85 or more, "
            f"drops {len(lost):,} of {len(documents):,}; {agreement:.3f} of what either drops, both drop"
        )
        if recall < MIN_RECALL or agreement < MIN_AGREEMENT:
            raise SystemExit(f"{name} finds something else; its time says nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description="Near-duplicates against datatrove and datasketch.")
    parser.add_argument("file", nargs="?", default=str(DATA / "text" / "c4_en.jsonl"), help="JSONL with `text`")
    parser.add_argument("--texts", type=int, default=100, help="originals, of 80 to 1000 words")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    lines = Path(options.file).read_bytes().split(b"\n")
    originals = latin([json.loads(line)["text"] for line in lines if line])[: options.texts]
    planted, documents = plant(originals)
    size, words = sum(map(len, documents)), sum(len(text.split()) for text in documents)
    print(describe_machine())
    print(f"{len(documents):,} documents, {size / 1e6:.1f} MB, {words / len(documents):.0f} words each")
    ours = band_hashes(documents, CONFIG)
    show(judge(planted, documents, ours, CONFIG))
    with tempfile.TemporaryDirectory() as root:
        texts, folder = Path(root, "texts.json"), Path(root)
        texts.write_text(json.dumps(documents))
        runs: dict[str, Callable[[], float]] = {
            "datatrove, spaCy": partial(peer, "datatrove", "datatrove_minhash.py", texts, folder / "a.npy", "spacy"),
            "datatrove, split": partial(peer, "datatrove", "datatrove_minhash.py", texts, folder / "b.npy", "split"),
            "datasketch": partial(peer, "datasketch", "datasketch_minhash.py", texts, folder / "c.npy"),
        }
        for run in runs.values():
            run()
        found = {name: np.load(folder / f"{letter}.npy") for name, letter in zip(runs, "abc", strict=True)}
        print()
        compare({"rayllm": ours, **found}, planted, documents)
        sides = [
            partial(signatures_to_file, documents, folder / "ours.npy"),
            partial(texts_to_losses, documents),
            *runs.values(),
        ]
        times = dict(zip(("signatures", "end to end", *runs), alternate(sides, options.rounds), strict=True))
    print(f"\nmedians of {options.rounds} rounds, load at the end {os.getloadavg()[0]:.2f}")
    print(f"{'':18} {'s':>8} {'MB/s':>8} {'docs/s':>9}")
    for name, seconds in times.items():
        median = float(np.median(seconds))
        print(f"{name:18} {median:8.3f} {size / median / 1e6:8.1f} {len(documents) / median:9,.0f}")
    for name, aim in AIMS.items():
        stage = "end to end" if name == "datasketch" else "signatures"
        print(f"{stage}: {median_ratio(times[name], times[stage]):.0f} times {name} (aim {aim})")


if __name__ == "__main__":
    main()
