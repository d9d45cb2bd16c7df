"""``rayllm import``: what a model of Hugging Face's transformers is in our words, as the ``model:`` part of a run file.

The weights are read where they lie when a run begins: ``train.init: from_hf:URI``.
"""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("model", help="directory or URI with config.json and safetensors (hf://org/name too)")


def run(args: argparse.Namespace) -> int:
    """Write the part to standard output."""
    from rayllm.core.config import to_yaml
    from rayllm.interchange.hf_import import read_model_config

    config = read_model_config(args.model)
    sys.stdout.write(f"# The model at {args.model}; its weights: `train.init: from_hf:{args.model}`.\n")
    sys.stdout.write(to_yaml(config))
    return 0
