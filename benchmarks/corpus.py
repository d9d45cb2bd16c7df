"""From Parquet files to packed shards: cleaning, rules, MinHash, tokens; against datatrove and a plain pool.

Text: real pages multiplied with edits, near-copies and exact copies among them (``support.web_text``). Rules:
Gopher's of quality and of repetition, C4's for pages, FineWeb's; 14 bands of 8 hashes; one tokenizer.json's tokens.

- ``datatrove``: both are timed in turn, from nothing, with the start of Ray and of datatrove's workers. Before the
  times are told, the documents that both keep are compared, and every difference is listed with what each side says
  of it; what is known of the causes is told in ``CAUSES``. Aim: 6 times.
- ``pool``: Ray Data against two plain processes that run the same tasks, both warm. Aim: at most 1.25 times the time.
- ``memory``: one large corpus; the most memory that all processes of the run hold together. Aim: 2 GB.
- ``growth``: 1, 2, 4 and 8 times a size. Aim: a straight line within 10 %.
- ``cpus``: one CPU against two. Aim: at least 1.8 times.

Every measurement is a process of its own; beside its seconds stand those of the CPU, of all processes together, which
other work on the machine changes less. Usage: corpus.py [NAME] [--mb N] [--rounds N] [--words spacy|split]
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from support.peers import REPO, alternate, describe_machine, median_ratio, peer_python
from support.usage import Usage
from support.web_text import FILES, real_pages, write_parquet

from rayllm.core.artifact import Artifact
from rayllm.core.stage import Task, Work, run_task
from rayllm.corpus.build.build import build_corpus
from rayllm.pipelines import fit_tokenizer, pack, prepare
from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.ray_runtime import ensure_ray, shutdown
from rayllm.tokenizer.codec import Codec

DATA = Path(os.environ.get("RAYLLM_TEST_DATA") or REPO.parent / "shared" / "data")
TOKENIZER = DATA / "tokenizers" / "gpt2" / "tokenizer.json"
RULES = {"gopher_quality": {"marks_are_words": True}, "gopher_repetition": {}, "c4": {}, "fineweb": {}}
#: Many units and shards, as a large corpus has, so that two CPUs can share them.
SIZES = {"unit_bytes": 4 << 20, "shard_bytes": 4 << 20}
#: Why the two sides do not keep quite the same documents.
CAUSES = """\
Causes known from pages as they are (docs/quality-rules.md): spaCy ends some words elsewhere (`US$`, `cannot`, `2"+`),
so the share of words with letters differs by one word in hundreds; in edited text it ends some sentences elsewhere
too. rayllm counts lines that hold text, datatrove empty ones too (gopher_cut_lines). Near-copies are found by bands of
hashes on both sides, but by other hash functions: of two alike in part, one side may drop one and the other not."""
WARM_BYTES = 1_000_000
#: What ``growth`` multiplies its size by.
FACTORS = (1, 2, 4, 8)
OBJECT_STORE_BYTES = 200_000_000

#: What is found in one measurement.
Found = dict[str, Any]


def settings(source: Path, cpus: int, **more: Any) -> dict[str, Any]:
    """The part of a run file that the stages read."""
    return {
        "name": "bench",
        "ray": {"num_cpus": cpus, "object_store_bytes": OBJECT_STORE_BYTES},
        "sources": {"web": {"kind": "parquet", "path": f"{source}/*.parquet", "id": "id"}},
        "validation": {"heldout_frac": 0},
        "prepare": {"rules": {"prose": RULES}, "near_duplicates": {}, **SIZES, **more},
    }


def run_on_ray(source: Path, root: Path, cpus: int, **more: Any) -> dict[str, Any]:
    """The three stages on Ray."""
    values = settings(source, cpus, **more)
    start = time.perf_counter()
    corpus = _stage("prepare", prepare, values, root)
    prepared = time.perf_counter()
    tokenizer = _stage("fit_tokenizer", fit_tokenizer, _adopt(values), root, prepare=corpus)
    packed = _stage("pack", pack, values, root, prepare=corpus, fit_tokenizer=tokenizer)
    end = time.perf_counter()
    return _result(corpus, packed.counts["tokens"], start, prepared, end)


def run_in_pool(source: Path, root: Path, pool: Any) -> dict[str, Any]:
    """The same tasks in plain processes."""
    values = settings(source, 2)
    config = prepare.Config.model_validate(_cut(values, prepare))

    def build(work: Work) -> dict[str, Any]:
        return build_corpus(
            config.sources,
            config.validation,
            config.prepare,
            seed=config.seed,
            output=work.directory,
            scratch=work.scratch,
            run=pool.imap,
        )

    start = time.perf_counter()
    corpus = run_task(Task("prepare", build, config, in_place=True), str(root))[0]
    prepared = time.perf_counter()
    tokenizer = _stage("fit_tokenizer", fit_tokenizer, _adopt(values), root, prepare=corpus)
    tasks = pack.plan_tasks(corpus, str(root / "packed"), 1 << 20)
    encode = partial(_pack_shard, tokenizer=tokenizer.uri, sha256=tokenizer.counts["sha256"])
    tokens = sum(pool.imap_unordered(encode, [task.model_dump_json() for task in tasks]))
    return _result(corpus, tokens, start, prepared, time.perf_counter())


_codecs: dict[str, Codec] = {}


def _pack_shard(text: str, *, tokenizer: str, sha256: str) -> int:
    codec = _codecs.get(tokenizer) or _codecs.setdefault(tokenizer, Codec.load(tokenizer, sha256))
    return pack.pack_shard(pack.ShardTask.model_validate_json(text), codec).tokens


def _stage(verb: str, module: Any, values: dict[str, Any], root: Path, **inputs: Artifact) -> Artifact:
    config = module.Config.model_validate(_cut(values, module))
    return run_task(Task(verb, module.run, config, inputs, in_place=verb != "fit_tokenizer"), str(root))[0]


def _cut(values: dict[str, Any], module: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in module.Config.model_fields}


def _adopt(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "fit_tokenizer": {"kind": "adopt", "from_file": str(TOKENIZER)}}


def _result(corpus: Artifact, tokens: int, start: float, prepared: float, end: float) -> dict[str, Any]:
    counts = corpus.counts["domains"]["web"]
    seconds = {"seconds": end - start, "prepare_s": prepared - start, "pack_s": end - prepared}
    return {**seconds, "corpus": corpus.uri, "tokens": tokens, "documents": counts["train"]["documents"]}


def measure_here(order: dict[str, Any]) -> dict[str, Any]:
    """One measurement in this process, with the time that starting and warming took."""
    source, root, side, cpus = Path(order["source"]), Path(order["root"]), order["side"], order["cpus"]
    warm, begin = Path(order["warm"]) if order["warm"] else None, time.perf_counter()
    with Usage(memory=order["memory"]) as usage:
        if side == "ray":
            ensure_ray(RayConfig(num_cpus=cpus, object_store_bytes=OBJECT_STORE_BYTES))
            run: Callable[[Path, Path], dict[str, Any]] = partial(run_on_ray, cpus=cpus, **order["prepare"])
        else:
            pool = multiprocessing.get_context("spawn").Pool(cpus)
            run = partial(run_in_pool, pool=pool)
        if warm is not None:
            # A small unit for each worker: both import what they need and make their tables.
            run(warm, root / "warm")
        started, cpu = time.perf_counter() - begin, usage.cpu_s()
        found = run(source, root / "run")
        cpu = usage.cpu_s() - cpu
        shutdown()
    return {**found, "start_s": started, "cpu_s": cpu, "peak_bytes": usage.peak_bytes}


def measure(
    source: Path, side: str, *, cpus: int = 2, warm: Path | None = None, memory: bool = False, **more: Any
) -> dict[str, Any]:
    """One measurement in a process of its own."""
    root = Path(tempfile.mkdtemp(prefix="corpus-bench-"))
    order = {"source": str(source), "root": str(root), "side": side, "cpus": cpus, "memory": memory, "prepare": more}
    order["warm"] = None if warm is None else str(warm)
    command = [sys.executable, __file__, "one", "--order", json.dumps(order)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        result = _run(command, environment)
        if more.get("keep_dropped"):
            result |= {"kept": kept_by_us(result["corpus"]), "dropped": dropped_by_us(result["corpus"])}
        return result
    finally:
        shutil.rmtree(root)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """What a process prints last, as JSON."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def kept_by_us(corpus: str) -> list[str]:
    paths = sorted(Path(corpus, "train", "web").glob("*.parquet"))
    return [name for path in paths for name in pq.read_table(path, columns=["id"]).column("id").to_pylist()]


def dropped_by_us(corpus: str) -> dict[str, str]:
    tables = (pq.read_table(path, columns=["id", "reason"]) for path in Path(corpus, "dropped", "web").glob("*"))
    return {row["id"]: row["reason"] for table in tables for row in table.to_pylist()}


def run_datatrove(source: Path, words: str) -> dict[str, Any]:
    """datatrove's passes in its own interpreter; seconds of all passes, and the ids after rules and in the end."""
    root = Path(tempfile.mkdtemp(prefix="datatrove-bench-"))
    script = REPO / "benchmarks" / "peers" / "datatrove_corpus.py"
    command = [peer_python("datatrove"), str(script), str(source), str(root), str(TOKENIZER), "2", words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        passes = _run(command, environment)
        kept = _lines((root / "kept").glob("*.txt"))
        reasons = dict(line.split(" ", 1) for line in _lines((root / "reasons").glob("*.txt")))
        return {"seconds": sum(passes.values()), "passes": passes, "kept": kept, "reasons": reasons}
    finally:
        shutil.rmtree(root)


def _lines(paths: Iterable[Path]) -> list[str]:
    return [line for path in sorted(paths) for line in path.read_text().splitlines()]


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every document that one side keeps and the other does not: what each says of it, and its id."""
    kept, theirs_kept = set(ours["kept"]), set(theirs["kept"])
    for name in sorted(kept ^ theirs_kept):
        copies = {copy for copy in (kept if name in theirs_kept else theirs_kept) if copy[:7] == name[:7]}
        reason = "kept" if name in kept else ours["dropped"][name]
        other = "kept" if name in theirs_kept else theirs["reasons"].get(name, "near_duplicate")
        same = ", which keeps another copy of it" if copies else ""
        yield f"rayllm: {reason}, datatrove: {other}{same}", name


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Print how many documents both keep, and every one that only one of them keeps."""
    found = list(differences(ours, theirs))
    both = len(set(ours["kept"]) & set(theirs["kept"]))
    print(f"kept: rayllm {len(ours['kept']):,}, datatrove {len(theirs['kept']):,}, both {both:,}; differences:")
    for kind, number in Counter(kind for kind, _ in found).most_common():
        print(f"{number:6,}  {kind}: {', '.join(name for other, name in found if other == kind)}")
    print(CAUSES)


def against_datatrove(options: argparse.Namespace, source: Path, warm: Path) -> None:
    print(f"datatrove's words: {options.words}")
    last: dict[str, Any] = {}

    def ours() -> float:
        found = measure(source, "ray")
        return found["seconds"] + found["start_s"]

    def theirs() -> float:
        last.update(run_datatrove(source, options.words))
        return last["seconds"]

    times = alternate([ours, theirs], options.rounds)
    compare(measure(source, "ray", keep_dropped=True), last)
    for name, seconds in zip(("rayllm, with Ray's start", "datatrove"), times, strict=True):
        _print_times(name, seconds, options.mb)
    print(f"{median_ratio(times[1], times[0]):.1f} times datatrove (aim 6)")


def against_pool(options: argparse.Namespace, source: Path, warm: Path) -> None:
    times = _alternate(
        options,
        "Ray Data",
        lambda: measure(source, "ray", warm=warm),
        "pool of 2",
        lambda: measure(source, "pool", warm=warm),
    )
    print(f"{median_ratio(times[0], times[1]):.2f} times the time of a pool (aim 1.25)")


def cpus(options: argparse.Namespace, source: Path, warm: Path) -> None:
    times = _alternate(
        options,
        "1 CPU",
        lambda: measure(source, "ray", cpus=1, warm=warm),
        "2 CPUs",
        lambda: measure(source, "ray", cpus=2, warm=warm),
    )
    print(f"two CPUs are {median_ratio(times[0], times[1]):.2f} times as fast (aim 1.8)")


def _alternate(
    options: argparse.Namespace, one: str, first: Callable[[], Found], other: str, second: Callable[[], Found]
) -> list[list[float]]:
    """Measure two sides in turn and print both; the seconds of each."""
    found: dict[str, list[Found]] = {one: [], other: []}

    def side(name: str, run: Callable[[], Found]) -> float:
        found[name].append(run())
        return found[name][-1]["seconds"]

    times = alternate([partial(side, one, first), partial(side, other, second)], options.rounds)
    for name, seconds in zip(found, times, strict=True):
        _print_times(name, seconds, options.mb)
        _print_usage(found[name])
    return times


def memory(options: argparse.Namespace, source: Path, warm: Path) -> None:
    found = measure(source, "ray", warm=warm, memory=True)
    _print_times("rayllm", [found["seconds"]], options.mb)
    _print_usage([found])
    print(f"peak memory of all processes {found['peak_bytes'] / 1e9:.2f} GB (aim 2); {found['tokens']:,} tokens")


def growth(options: argparse.Namespace, source: Path, warm: Path) -> None:
    times = []
    for factor in FACTORS:
        with tempfile.TemporaryDirectory() as folder:
            for path in sorted(source.iterdir())[: FILES * factor]:
                Path(folder, path.name).symlink_to(path)
            found = [measure(Path(folder), "ray", warm=warm, memory=True) for _ in range(options.rounds)]
        seconds = [one["seconds"] for one in found]
        _print_times(f"{factor} times", seconds, factor * options.mb)
        _print_usage(found)
        times.append(statistics.median(seconds))
    rates = [seconds / factor / times[0] for seconds, factor in zip(times, FACTORS, strict=True)]
    print(f"seconds per byte, of the first: {', '.join(f'{rate:.3f}' for rate in rates)} (aim at most 1.1)")
    (slope, fixed), *_ = np.polyfit(FACTORS, times, 1, full=True)
    errors = [abs(fixed + slope * factor - seconds) / seconds for seconds, factor in zip(times, FACTORS, strict=True)]
    print(f"{fixed:.1f} s, and {slope:.2f} s for each {options.mb} MB; off by {max(errors):.1%} at most (aim 10 %)")


def _print_usage(found: Sequence[Found]) -> None:
    seconds = statistics.median(one["cpu_s"] for one in found)
    peak = max(one["peak_bytes"] for one in found)
    memory = f"; peak memory {peak / 1e9:.2f} GB" if peak else ""
    print(f"{'':26} {seconds:8.2f} s of CPU{memory}")


def _print_times(name: str, seconds: Sequence[float], mb: int) -> None:
    median = statistics.median(seconds)
    print(f"{name:26} {median:8.2f} s {mb / median:8.2f} MB/s  of {', '.join(f'{value:.2f}' for value in seconds)}")


#: What each measures: how, MB of text, rounds.
BENCHES: dict[str, tuple[Callable[[argparse.Namespace, Path, Path], None], int, int]] = {
    "datatrove": (against_datatrove, 50, 3),
    "pool": (against_pool, 100, 3),
    "memory": (memory, 500, 1),
    "growth": (growth, 60, 1),
    "cpus": (cpus, 120, 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="From Parquet to packed shards.")
    parser.add_argument("name", nargs="?", choices=[*BENCHES, "all", "one"], default="all")
    parser.add_argument("--mb", type=int, help="text, in MB")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--words", choices=["spacy", "split"], default="spacy", help="datatrove's word splitter")
    parser.add_argument("--order", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.name == "one":
        print(json.dumps(measure_here(json.loads(options.order))))
        return
    print(describe_machine())
    for name in BENCHES if options.name == "all" else [options.name]:
        print(f"-- {name}")
        run_bench(name, argparse.Namespace(**vars(options)))
    print(f"load at the end {os.getloadavg()[0]:.2f}")


def run_bench(name: str, options: argparse.Namespace) -> None:
    bench, size, rounds = BENCHES[name]
    options.mb, options.rounds = options.mb or size, options.rounds or rounds
    factor = FACTORS[-1] if name == "growth" else 1
    with tempfile.TemporaryDirectory(prefix="corpus-bench-") as folder:
        pages = real_pages(DATA)
        source, warm = Path(folder, "text"), Path(folder, "warm")
        write_parquet(warm, pages, WARM_BYTES)
        write_parquet(source, pages, factor * options.mb * 1_000_000, files=FILES * factor)
        bench(options, source, warm)


if __name__ == "__main__":
    main()
