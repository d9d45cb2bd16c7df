"""datatrove's local executor over Parquet files: rules, MinHash, tokens; run by the interpreter of its own environment.

Arguments: folder of Parquet files, folder for everything it writes, tokenizer.json, workers, ``spacy`` (its default for
English) or ``split`` (words at white space, the fastest that it could have). The rules have the thresholds of
``benchmarks/corpus.py``; the dearest come last. Signatures are made in the pass that filters, with no compression
between the passes: both are faster than FineWeb's own scripts. Prints the seconds of each pass as JSON; the ids
that are kept lie in ``kept/``, those that a rule drops in ``reasons/``, each with the rule.
"""

import json
import re
import sys
import time
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import (
    HashConfig,
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader, ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils import word_tokenizers
from loguru import logger

CONFIG = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64))


class SplitWords(PipelineStep):
    """Makes this process take words at white space and sentences at full stops, before the first text comes."""

    name = "words at white space"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        class Split(word_tokenizers.WordTokenizer):
            def word_tokenize(self, text: str) -> list[str]:
                return text.split()

            def sent_tokenize(self, text: str) -> list[str]:
                return [part for part in text.split(".") if part.strip()]

            def span_tokenize(self, text: str) -> list[tuple[int, int]]:
                return [match.span() for match in re.finditer(r"[^.]+", text)]

        word_tokenizers.load_word_tokenizer.cache_clear()
        word_tokenizers.WORD_TOKENIZER_FACTORY = {}
        splitter = Split()
        for module in list(sys.modules.values()):
            if getattr(module, "load_word_tokenizer", None) is not None:
                module.load_word_tokenizer = lambda language, _splitter=splitter: _splitter
        yield from data


class KeepIds(PipelineStep):
    """Writes down the ids that pass."""

    name = "ids"

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        with Path(self.folder, f"{rank:02d}.txt").open("w") as file:
            for document in data:
                file.write(f"{document.id}\n")
                yield document


class Reasons:
    """Takes what a filter drops, and writes down ids and reasons.

    Args:
        folder: Where to.
        rule: Name of the filter, which its file begins with.
    """

    def __init__(self, folder: str, rule: str) -> None:
        self.folder, self.rule = folder, rule
        self.lines: list[str] = []
        self.rank = 0

    def __enter__(self) -> "Reasons":
        return self

    def __exit__(self, *_: object) -> None:
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        Path(self.folder, f"{self.rule}-{self.rank:02d}.txt").write_text("".join(self.lines))

    def write(self, document: Document, rank: int) -> None:
        self.rank = rank
        self.lines.append(f"{document.id} {document.metadata.get('filter_reason', self.rule)}\n")


def rules(folder: str) -> list[PipelineStep]:
    return [
        GopherQualityFilter(exclusion_writer=Reasons(folder, "gopher_quality")),
        FineWebQualityFilter(char_duplicates_ratio=0.1, exclusion_writer=Reasons(folder, "fineweb")),
        GopherRepetitionFilter(exclusion_writer=Reasons(folder, "gopher_repetition")),
        # Its rules for pages; those for lines would change the text.
        C4QualityFilter(
            remove_citations=False,
            filter_no_terminal_punct=False,
            min_words_per_line=-1,
            max_word_length=-1,
            filter_javascript=False,
            filter_policy=False,
            exclusion_writer=Reasons(folder, "c4"),
        ),
    ]


def main(source: str, folder: str, tokenizer: str, workers: int, words: str) -> None:
    logger.remove()
    work = Path(folder)
    first = [SplitWords()] if words == "split" else []
    filtered, signatures = str(work / "filtered"), str(work / "signatures")
    passes = {
        "rules and signatures": (
            [
                ParquetReader(source, text_key="text", id_key="id", batch_size=1000),
                *first,
                *rules(str(work / "reasons")),
                KeepIds(str(work / "passed")),
                JsonlWriter(filtered, "${rank}.jsonl", compression=None),
                MinhashDedupSignature(signatures, config=CONFIG),
            ],
            workers,
        ),
        "buckets": ([MinhashDedupBuckets(signatures, str(work / "buckets"), config=CONFIG)], CONFIG.num_buckets),
        "clusters": ([MinhashDedupCluster(str(work / "buckets"), str(work / "removed"), config=CONFIG)], 1),
        "tokens": (
            [
                JsonlReader(filtered, compression=None),
                MinhashDedupFilter(str(work / "removed")),
                KeepIds(str(work / "kept")),
                DocumentTokenizer(str(work / "tokens"), tokenizer, eos_token="<|endoftext|>", shuffle_documents=False),
            ],
            workers,
        ),
    }
    seconds = {}
    for name, (pipeline, tasks) in passes.items():
        start = time.perf_counter()
        logs = str(work / "logs" / name.replace(" ", "_"))
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=workers, logging_dir=logs).run()
        seconds[name] = time.perf_counter() - start
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
