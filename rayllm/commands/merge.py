"""``rayllm merge``: adapters and their base to a checkpoint of one whole model."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("checkpoint", help="checkpoint of adapters, train artifact or run (path or URI)")
    parser.add_argument("output", help="directory or URI for the checkpoint; must be empty or missing")
    parser.add_argument("--base", default="", help="where the base lies now, as in train.init, if it was moved")
    parser.add_argument(
        "--prefer", choices=["best", "last"], default="best", help="which checkpoint of several (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Merge, and say what was written."""
    from rayllm.interchange.merge import merge_checkpoint

    done = merge_checkpoint(args.checkpoint, args.output, base=args.base, prefer=args.prefer)
    sys.stdout.write(
        f"{done.uri}: {done.checkpoint} in {done.base}, {done.parameters:,} parameters, {done.bytes / 1e6:,.1f} MB\n"
        f"use it like any checkpoint: rayllm sample {done.uri}, rayllm export {done.uri} DIRECTORY, "
        f"train.init=from_checkpoint:{done.uri}\n"
    )
    return 0
