"""``rayllm data preview``: rows of packed data as training reads them, with every boundary visible.

In: a run file and a domain. Out: for some rows the documents in them, token boundaries, what is not learnt, padding,
and the attention mask.
"""

import argparse

from rayllm.core.errors import ConfigError
from rayllm.data.packing.row_index import open_rows
from rayllm.data.packing.rows import fill_of, read_segments
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines.existing import find_artifacts
from rayllm.pipelines.run_config import load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("action", choices=["preview"], help="preview: show rows of packed data")
    parser.add_argument("file", help="run file (YAML)")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="settings such as train.packing=best_fit train.seq_len=512"
    )
    parser.add_argument("--domain", help="which domain (default: the first one)")
    parser.add_argument("--split", choices=["train", "validation"], default="train", help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="number of the first row (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=3, help="how many (default: %(default)s)")
    parser.add_argument("--width", type=int, help="columns (default: the terminal's)")


def run(args: argparse.Namespace) -> int:
    """Show the rows.

    Raises:
        ConfigError: If there is no such row.
        DataError: If there is no such domain.
    """
    from rayllm.commands.row_view import RowView, trace
    from rayllm.data.batches import Place, make_batch

    config = load_run(args.file, args.overrides)
    artifacts = find_artifacts(config, "pack", args.file)
    packed, seq_len = PackedData.open(artifacts["pack"].uri), config.train.seq_len
    domain = args.domain or packed.domains(args.split)[0]
    stream = packed.stream(args.split, domain)
    rows = open_rows(packed, args.split, domain, seq_len, config.train.packing)
    numbers = _numbers(args, rows.num_rows, f"{args.split}/{domain}")
    places = [Place(number, 0, number, tuple(rows.segments(number))) for number in numbers]
    pieces = [read_segments(stream, place.segments) for place in places]
    batches = [make_batch([row], [0], seq_len, packed.separator_id) for row in pieces]
    pairs = domain in packed.pair_domains(args.split)
    view = RowView(packed.codec(), args.width, with_mask=config.train.document_mask, pairs=pairs)
    fill = fill_of(rows, stream.document_starts(), stream.num_tokens, seq_len)
    view.facts(
        [
            ("packed", f"{packed.uri} ({packed.index.dtype}, vocabulary of {packed.vocab_size:,})"),
            (args.split, f"{domain}, {config.train.packing}: {fill.describe(seq_len)}"),
        ]
    )
    for row in trace({0: stream}, artifacts["prepare"].uri, places, batches):
        view.row(f"row {row.place.number:,} of {rows.num_rows:,}", row)
    return 0


def _numbers(args: argparse.Namespace, num_rows: int, where: str) -> range:
    """The rows that were asked for, as far as there are rows.

    Raises:
        ConfigError: If that is none.
    """
    numbers = range(args.first, min(args.first + args.rows, num_rows))
    if args.first < 0 or not numbers:
        raise ConfigError(
            f"there are no {args.rows} rows from row {args.first}",
            where="--first, --rows",
            why=f"{where} has {num_rows:,} rows of this length, numbered from 0",
        )
    return numbers
