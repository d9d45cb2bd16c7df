"""Speed of packing against the bare tokenizer: the share of `encode_batch_fast`'s tokens per second that is left.

Text: the standard library's sources, as a corpus of 24 Parquet shards. Bare: `encode_batch_fast` over the texts in
memory, all cores, ids not even read. Pack: read, check SHA-256, encode, write shards and notes, through Ray Data with
an encoder for each core; timed from the first finished shard on, without the start of the pool. The second line is the
same by CPU time in one thread, without Ray: it holds on a busy machine too. Both sides alternate; medians. Aim: 0.85.
"""

import os
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rayllm.core.artifact import Artifact
from rayllm.core.stage import Task, Work, run_task
from rayllm.pipelines import fit_tokenizer, pack
from rayllm.pipelines.frame import Frame
from rayllm.pipelines.ray_runtime import ensure_ray, shutdown
from rayllm.tokenizer.codec import Codec

SHARDS = 24
MAX_BYTES = 12 << 20
ROUNDS = 3


def stdlib_texts() -> list[str]:
    """Python sources of the standard library, up to the cap, in a fixed order."""
    texts, total = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts and total < MAX_BYTES:
            texts.append(path.read_text(encoding="utf-8", errors="replace"))
            total += len(texts[-1].encode())
    return texts


def make_corpus(texts: list[str], root: str) -> Artifact:
    """The texts as a corpus artifact."""

    def prepare(work: Work) -> dict:
        for number in range(SHARDS):
            path = Path(work.path("train/code", f"{number:05d}.parquet"))
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"text": texts[number::SHARDS]}), path, compression="zstd")
        return {"domains": {"code": {"train": {"bytes": sum(len(text.encode()) for text in texts)}}}}

    return run_task(Task("prepare", prepare, Frame(name="bench")), root)[0]


def bare_rate(codec: Codec, texts: list[str]) -> float:
    """Tokens per second of the tokenizer alone."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    start = time.perf_counter()
    encodings = codec.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    elapsed = time.perf_counter() - start
    return sum(map(len, encodings)) / elapsed


def pack_rate(corpus: Artifact, tokenizer: Artifact, config: pack.Config) -> float:
    """Tokens per second of the pool, from its first finished shard on."""
    with tempfile.TemporaryDirectory() as directory:
        tasks = pack.plan_tasks(corpus, directory, config.pack.batch_bytes)
        shards = pack.encode_shards(tasks, tokenizer, config)
        next(shards)
        start = time.perf_counter()
        tokens = sum(shard.record.tokens for shard in shards)
        return tokens / (time.perf_counter() - start)


def cpu_share(codec: Codec, texts: list[str], corpus: Artifact, batch_bytes: int) -> float:
    """CPU time of the bare tokenizer over that of making the same tokens into shards, both in one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    start = time.process_time()
    codec.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    between = time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        for task in pack.plan_tasks(corpus, directory, batch_bytes):
            pack.pack_shard(task, codec)
    return (between - start) / (time.process_time() - between)


def main() -> None:
    texts = stdlib_texts()
    with tempfile.TemporaryDirectory() as root:
        corpus = make_corpus(texts, root)
        config = fit_tokenizer.Config(name="bench")
        tokenizer = run_task(Task("fit_tokenizer", fit_tokenizer.run, config, {"prepare": corpus}), root)[0]
        codec = Codec.load(tokenizer.uri)
        pack_config = pack.Config(name="bench")
        ensure_ray(pack_config.ray)
        rounds, shares = [], []
        for _ in range(ROUNDS):
            rounds.append((bare_rate(codec, texts), pack_rate(corpus, tokenizer, pack_config)))
            shares.append(cpu_share(codec, texts, corpus, pack_config.pack.batch_bytes))
        shutdown()
    bare, packed = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    ratio = statistics.median(after / before for before, after in rounds)
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"pack: {packed / 1e6:.2f} M tokens/s, bare tokenizer {bare / 1e6:.2f} M tokens/s ({size:.1f} MB of text)")
    print(f"pack / bare = {ratio:.2f} (aim 0.85; rounds {', '.join(f'{b / a:.2f}' for a, b in rounds)})")
    shown = ", ".join(f"{share:.2f}" for share in shares)
    print(f"by CPU time, one thread: {statistics.median(shares):.2f} (rounds {shown})")


if __name__ == "__main__":
    main()
