"""``rayllm export``: a checkpoint to a directory that Hugging Face's transformers loads."""

import argparse
import sys

from rayllm.core.config import parse_count
from rayllm.core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("checkpoint", help="checkpoint, `checkpoints/` directory or train artifact (path or URI)")
    parser.add_argument("output", help="directory or URI for the model; must be empty or missing")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="%(default)s")
    parser.add_argument("--max-shard", default="2Gi", help="size of a file of weights, in bytes (default: %(default)s)")
    parser.add_argument(
        "--prefer", choices=["best", "last"], default="best", help="which checkpoint of several (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from rayllm.interchange.hf_export import export_checkpoint

    limit = parse_count(args.max_shard)
    if not isinstance(limit, int):
        raise ConfigError("--max-shard is no number of bytes", why=f"it is {limit!r}", fix="write 500M or 2Gi")
    done = export_checkpoint(args.checkpoint, args.output, dtype=args.dtype, max_shard_bytes=limit, prefer=args.prefer)
    sys.stdout.write(
        f"{done.uri}: {done.layout}, {done.parameters:,} parameters, {done.bytes / 1e6:,.1f} MB of {args.dtype}\n"
        f'load it: transformers.AutoModelForCausalLM.from_pretrained("{done.uri}")\n'
    )
    return 0
