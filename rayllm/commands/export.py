"""``rayllm export``: a checkpoint to a directory that Hugging Face's transformers loads; adapters to one for peft."""

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
        "--base", default="", help="of adapters: where their base lies now, as in train.init, if it was moved"
    )
    parser.add_argument(
        "--prefer", choices=["best", "last"], default="best", help="which checkpoint of several (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from rayllm.core.checkpoint import find_checkpoint
    from rayllm.interchange.hf_export import export_checkpoint
    from rayllm.model.lora.saved import read_note

    limit = parse_count(args.max_shard)
    if not isinstance(limit, int):
        raise ConfigError("--max-shard is no number of bytes", why=f"it is {limit!r}", fix="write 500M or 2Gi")
    found = find_checkpoint(args.checkpoint, args.prefer)
    if read_note(found) is not None:
        return _run_adapters(found, args, limit)
    if args.base:
        raise ConfigError("--base is for adapters, and this checkpoint holds a whole model", where=found)
    done = export_checkpoint(found, args.output, dtype=args.dtype, max_shard_bytes=limit)
    sys.stdout.write(
        f"{done.uri}: {done.layout}, {done.parameters:,} parameters, {done.bytes / 1e6:,.1f} MB of {args.dtype}\n"
        f'load it: transformers.AutoModelForCausalLM.from_pretrained("{done.uri}")\n'
    )
    return 0


def _run_adapters(checkpoint: str, args: argparse.Namespace, max_shard_bytes: int) -> int:
    from rayllm.interchange.peft_export import export_adapters

    done = export_adapters(checkpoint, args.output, dtype=args.dtype, max_shard_bytes=max_shard_bytes, base=args.base)
    sys.stdout.write(
        f"{done.uri}: adapters for peft, {done.parameters:,} parameters, {done.bytes / 1e6:,.1f} MB of {args.dtype}\n"
        f'their base: AutoModelForCausalLM.from_pretrained("{done.base}")\n'
        f'load them: peft.PeftModel.from_pretrained(base, "{done.uri}")\n'
    )
    return 0
