"""``rayllm depth``: what one number says about a whole run, each setting with its reason.

In: a depth, or a run file that sets one. Out: every derived setting, those which the file sets itself marked, and what
they come to: parameters, tokens, steps, FLOPs; as a table or, with ``--json``, for programs.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from rayllm.core.config import Count, parse_count
from rayllm.core.config_source import read_source
from rayllm.core.errors import ConfigError
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters, training_flops_per_token
from rayllm.pipelines.depth import derive, expand
from rayllm.pipelines.run_config import load_run
from rayllm.train.config import TrainConfig

DEFAULT_VOCAB = 32_768


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("what", metavar="DEPTH|FILE", help="a number of layers, or a run file that sets `depth:`")
    parser.add_argument("overrides", nargs="*", default=[], help="settings such as depth=12 or train.seq_len=1024")
    parser.add_argument("--vocab", help=f"ids to count parameters with (default: the file's, else {DEFAULT_VOCAB:,})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Derive and print; 0 unless the run file is wrong or sets no depth."""
    found = describe(_tree(args.what, args.overrides), _vocab(args.vocab))
    if args.json:
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    else:
        _show(found)
    return 0


def describe(tree: Mapping[str, Any], vocab_size: int | None) -> dict[str, Any]:
    """All that is printed, ready for JSON.

    Args:
        tree: A run file's tree with ``depth`` in it.
        vocab_size: Ids of the tokenizer; by default those that the file asks for.
    """
    expanded = expand(tree)
    model, train = ModelConfig.model_validate(expanded["model"]), TrainConfig.model_validate(expanded["train"])
    asked = tree.get("fit_tokenizer")
    wanted = parse_count(asked.get("vocab_size")) if isinstance(asked, Mapping) else None
    ids = vocab_size or model.vocab_size or (wanted if isinstance(wanted, int) else DEFAULT_VOCAB)
    model = model.with_vocab(ids)
    parameters = count_parameters(model)
    steps = train.max_steps or max(1, (train.total_tokens(parameters.total) or 0) // train.global_batch_tokens)
    tokens = steps * train.global_batch_tokens
    return {
        "depth": tree["depth"],
        "settings": [
            {
                "setting": item.path,
                "value": _at(expanded, item.path),
                "from": "the run file" if item.own else "the depth",
                "reason": item.reason,
            }
            for item in derive(tree["depth"], tree)
        ],
        "run": {
            "vocab_size": model.resolved_vocab_size,
            "parameters": parameters.total,
            "non_embedding_parameters": parameters.non_embedding,
            "tokens": tokens,
            "steps": steps,
            "training_flops": training_flops_per_token(model, train.seq_len) * tokens,
        },
    }


def _tree(what: str, overrides: list[str]) -> dict[str, Any]:
    """The tree of a run file that has been checked, or of a bare depth."""
    if what.isdigit() and int(what) > 0:
        return {"depth": int(what)}
    if load_run(what, overrides).depth is None:
        raise ConfigError("the run file sets no depth", where=what, fix="add `depth: 12`, or name a number instead")
    return read_source(what, overrides).tree


def _vocab(text: str | None) -> Count | None:
    value = parse_count(text)
    if text is not None and (not isinstance(value, int) or value < 1):
        raise ConfigError(f"cannot read {text!r} as a number of ids", where="--vocab", fix="write --vocab 32768")
    return value if isinstance(value, int) else None


def _at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree


def _show(found: Mapping[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from rayllm.report.formats import count

    console = Console(highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for item in found["settings"]:
        reason = item["reason"] if item["from"] == "the depth" else "set by the run file"
        table.add_row(item["setting"], _text(item["value"]), reason)
    console.print(table)
    run = found["run"]
    console.print(
        f"{count(run['parameters'])} parameters with a vocabulary of {run['vocab_size']:,} "
        f"({count(run['non_embedding_parameters'])} without embeddings); {count(run['tokens'])} tokens in "
        f"{run['steps']:,} steps; {run['training_flops']:.2e} FLOPs.",
        soft_wrap=True,
    )


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)
