"""``rayllm tokenizer compare``: which tokenizer suits which text.

In: tokenizers in any format, and texts. Out: by domain, bytes per token, tokens per word, encoding speed and whether
every text comes back as it was; as tables or, with ``--json``, for programs.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayllm.commands.text_samples import RUN_FILES, Asked, read_samples
from rayllm.core.config import parse_count
from rayllm.core.errors import ConfigError
from rayllm.core.log import get_logger
from rayllm.tokenizer.comparison.candidates import Candidate, open_candidate, short_names
from rayllm.tokenizer.comparison.scores import Score, compare

logger = get_logger(__name__)

ALL = "all"

DESCRIPTION = """\
Compare tokenizers on the same texts.

A tokenizer is a tokenizer.json, a vocab.json (with merges.txt beside it), a .tiktoken or SentencePiece .model file,
each plain or .gz; a directory or URI of a tokenizer artifact, packed data or a checkpoint; or a run file. Behind
files that do not say how texts are cut stands the name of their pattern: cl100k_base.tiktoken@cl100k.

Texts are files (JSONL, Parquet, Arrow, Markdown, WARC, plain text; globs too), a corpus artifact, or a run file.

  rayllm tokenizer compare configs/run/quickstart.yaml gpt2/tokenizer.json --text configs/run/quickstart.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=["compare"], help="compare: compression and speed on the same texts")
    parser.add_argument("tokenizers", nargs="+", metavar="TOKENIZER", help="what to compare, see above")
    parser.add_argument(
        "--text",
        action="append",
        required=True,
        metavar="URI[:DOMAIN]",
        help="texts; DOMAIN names those of files, and chooses one of a corpus; may be given several times",
    )
    parser.add_argument("--max-bytes", default="4Mi", help="text of each domain, from its head (default: %(default)s)")
    parser.add_argument(
        "--split", choices=["validation", "train"], default="validation", help="of a corpus (default: %(default)s)"
    )
    parser.add_argument(
        "--field",
        default="text",
        help="of the text in JSONL, Parquet, Arrow: its name, or a template such as '{question} {answer}' "
        "(default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Compare and print; 0 unless something cannot be read."""
    max_bytes = parse_count(args.max_bytes)
    if not isinstance(max_bytes, int) or max_bytes < 1:
        raise ConfigError(f"cannot read {args.max_bytes!r}", where="--max-bytes", fix="write 500K, 4Mi or 1Gi")
    # Read by the encoders' libraries when they start: speeds are those of one core, as in each process of pack.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    candidates = list(_open(args.tokenizers))
    texts = read_samples(args.text, Asked(max_bytes, args.split, args.field))
    found = describe(compare(_named(candidates), texts))
    if args.json:
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    else:
        _show(found)
    return 0


def _open(written: Sequence[str]) -> Iterator[Candidate]:
    for text, name in zip(written, short_names(written), strict=True):
        yield open_candidate(_of_run(text) if text.endswith(RUN_FILES) else text, name)


def _named(candidates: Sequence[Candidate]) -> Iterator[Candidate]:
    """The candidates, each said when its turn comes."""
    for candidate in candidates:
        logger.info("%s: %s ids", candidate.name, f"{candidate.vocab_size:,}")
        yield candidate


def _of_run(file: str) -> str:
    """URI of the tokenizer that a run has made."""
    from rayllm.pipelines.existing import find_artifacts
    from rayllm.pipelines.run_config import load_run

    return find_artifacts(load_run(file, []), "fit_tokenizer", file)["fit_tokenizer"].uri


def describe(scores: Iterator[tuple[Candidate, dict[str, Score]]]) -> dict[str, Any]:
    """All that is printed, ready for JSON; with several domains, ``all`` is all of them together."""
    found: dict[str, Any] = {"texts": {}, "tokenizers": {}}
    for candidate, by_domain in scores:
        if len(by_domain) > 1 and ALL not in by_domain:
            first, *others = by_domain.values()
            by_domain = {**by_domain, ALL: sum(others, first)}
        found["texts"] = {name: _text(score) for name, score in by_domain.items()}
        found["tokenizers"][candidate.name] = {
            "source": candidate.source,
            "sha256": candidate.sha256,
            "vocab_size": candidate.vocab_size,
            "encoder": candidate.encoder.name,
            "domains": {name: _score(score) for name, score in by_domain.items()},
        }
    return found


def _text(score: Score) -> dict[str, int]:
    return {"documents": score.documents, "bytes": score.fit.bytes, "words": score.fit.words}


def _score(score: Score) -> dict[str, Any]:
    return {
        "tokens": score.fit.tokens,
        "bytes_per_token": score.fit.bytes_per_token,
        "tokens_per_word": score.fit.tokens_per_word,
        "encode_mb_per_s": score.mb_per_s,
        "round_trip": score.round_trip,
        "changed_documents": score.changed,
    }


def _show(found: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    for table in (_tokenizer_table(found), _text_table(found), _score_table(found)):
        console.print(table)
    console.print(
        "bytes/token: more is better; tokens/word: fewer is better; MB/s: by one core's time, new text.",
        style="dim",
        soft_wrap=True,
    )


def _tokenizer_table(found: Mapping[str, Any]) -> Any:
    table = _table(("tokenizer", "vocabulary", "encoder", "source"), right=("vocabulary",))
    for name, tokenizer in found["tokenizers"].items():
        table.add_row(name, f"{tokenizer['vocab_size']:,}", tokenizer["encoder"], tokenizer["source"])
    return table


def _text_table(found: Mapping[str, Any]) -> Any:
    from rayllm.report.formats import data_size

    table = _table(("text", *(numbers := ("documents", "words", "size"))), right=numbers)
    for domain, text in found["texts"].items():
        table.add_row(domain, f"{text['documents']:,}", f"{text['words']:,}", data_size(text["bytes"]))
    return table


def _score_table(found: Mapping[str, Any]) -> Any:
    from rich.text import Text

    numbers = ("bytes/token", "tokens/word", "MB/s")
    table = _table(("text", "tokenizer", *numbers, "round trip"), right=numbers)
    for domain, text in found["texts"].items():
        rows = {name: tokenizer["domains"][domain] for name, tokenizer in found["tokenizers"].items()}
        best = max(row["bytes_per_token"] for row in rows.values())
        for number, (name, row) in enumerate(rows.items()):
            style = "bold" if row["bytes_per_token"] == best else ""
            table.add_row(
                domain if number == 0 else "",
                name,
                Text(f"{row['bytes_per_token']:.3f}", style),
                f"{row['tokens_per_word']:.3f}",
                f"{row['encode_mb_per_s']:.1f}",
                _round_trip(row, text["documents"]),
            )
        table.add_section()
    return table


def _round_trip(row: Mapping[str, Any], documents: int) -> Any:
    from rich.text import Text

    if row["round_trip"]:
        return Text("yes")
    return Text(f"no: {row['changed_documents']:,} of {documents:,} change", "red")


def _table(columns: Sequence[str], right: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table
