"""``rayllm mix plan``: what a run will read, before it reads anything.

In: a run file, and its packed tokens or sizes given by hand. Out: steps, tokens and epochs of every stage and domain,
the budget behind them, and what the plan would warn of; as tables or, with ``--json``, for programs.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayllm.core.config import parse_count
from rayllm.core.errors import ConfigError, SetupError
from rayllm.data.mixing.plan import Plan
from rayllm.data.mixing.weights import PERIOD, check_known
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.pipelines.run_config import RunConfig, load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("action", choices=["plan"], help="plan: tokens and epochs of every stage and domain")
    parser.add_argument("file", help="run file (YAML)")
    parser.add_argument("overrides", nargs="*", default=[], help="settings such as train.tokens=10B")
    parser.add_argument("--sizes", help="plan without data: tokens of each training domain, such as web=10B,code=2.5B")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Plan and print; 0 unless the plan cannot be made."""
    config = load_run(args.file, args.overrides)
    forecast = _by_hand(config, args.sizes) if args.sizes else _from_packed(config, args.file)
    found = describe(forecast, config)
    if args.json:
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    else:
        _show(found)
    return 0


@dataclass(frozen=True)
class Forecast:
    """A plan and what it was made from.

    Attributes:
        plan: The run's plan.
        source: Where the sizes of the domains come from.
        model: The model, with its vocabulary where it is known.
    """

    plan: Plan
    source: str
    model: ModelConfig


def _from_packed(config: RunConfig, file: str) -> Forecast:
    from rayllm.data.shards.packed import PackedData
    from rayllm.pipelines.existing import find_artifacts
    from rayllm.pipelines.train.fork import load_fork
    from rayllm.pipelines.train.planning import plan_packed

    try:
        packed = PackedData.open(find_artifacts(config, "pack", file)["pack"].uri)
    except SetupError as error:
        domains = ",".join(f"{name}=1B" for name in config.sources)
        fix = f"{error.fix}; or plan without data: rayllm mix plan {file} --sizes {domains}"
        raise SetupError(error.what, where=error.where, why=error.why, fix=fix) from error
    plan = plan_packed(config, packed, load_fork(config, packed, ""))
    return Forecast(plan, packed.uri, config.model.with_vocab(packed.vocab_size))


def _by_hand(config: RunConfig, text: str) -> Forecast:
    """A plan for sizes that were only said. Best-fit rows depend on the documents, so rows count as slices."""
    from rayllm.pipelines.train.planning import plan_run

    sizes = read_sizes(text, list(config.sources))
    asked = getattr(config.fit_tokenizer, "vocab_size", None)
    model = config.model if asked is None or config.model.vocab_size else config.model.with_vocab(asked)
    return Forecast(plan_run(config, sizes, model), "--sizes", model)


def read_sizes(text: str, domains: list[str]) -> dict[str, int]:
    """Tokens of each domain from ``web=10B,code=2.5M``.

    Raises:
        ConfigError: If a part cannot be read, a domain is unknown, given twice or left out.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, amount = (piece.strip() for piece in part.partition("="))
        tokens = parse_count(amount)
        if not isinstance(tokens, int) or name in sizes:
            raise ConfigError(f"cannot read {part!r}", where="--sizes", fix="write each domain once: web=10B,code=2.5M")
        check_known(name, domains, "--sizes")
        sizes[name] = tokens
    missing = [name for name in domains if name not in sizes]
    if missing:
        raise ConfigError(f"no size is given for {', '.join(missing)}", where="--sizes", fix=f"add {missing[0]}=1B")
    return {name: sizes[name] for name in domains}


def describe(forecast: Forecast, config: RunConfig) -> dict[str, Any]:
    """All that is printed, ready for JSON.

    Args:
        forecast: The plan.
        config: The run: its budget and its caps.
    """
    plan = forecast.plan
    caps = config.mixture.caps(plan.domains)
    stages = [_stage(plan, number) for number in sorted({row.stage for row in plan.stages})]
    tokens = {name: sum(stage["domains"][name]["tokens"] for stage in stages) for name in plan.domains}
    epochs = plan.epochs()
    return {
        "source": forecast.source,
        "packing": config.train.packing,
        "budget": _budget(config, forecast.model),
        "steps": plan.total_steps,
        "tokens": plan.total_tokens,
        "stages": stages,
        "domains": {
            name: {
                "unique_tokens": plan.domain_tokens[name],
                "weight": tokens[name] / plan.total_tokens,
                "tokens": tokens[name],
                "epochs": epochs[name],
                "max_epochs": caps[name] if caps[name] < float("inf") else None,
            }
            for name in plan.domains
        },
        "notes": [*_adaptive_note(config), *_fork_note(config)],
        "warnings": plan.warnings(caps),
    }


def _adaptive_note(config: RunConfig) -> list[str]:
    """What a plan cannot know yet: where the weights of an adaptive mixture go."""
    adaptive = config.mixture.adaptive
    if adaptive is None:
        return []
    reference = adaptive.reference if isinstance(adaptive.reference, str) else "the numbers given"
    return [
        f"the mixture is adaptive: these are the weights that it begins with. Every "
        f"{adaptive.every * config.train.validation.every_steps:,} steps they move towards the domains whose bits per "
        f"byte are above {reference}, each by at most {adaptive.max_change:.1%} of the tokens; every move becomes a "
        f"row of the stage table, which plan.json and each checkpoint hold"
    ]


def _fork_note(config: RunConfig) -> list[str]:
    fork = config.train.fork
    return [f"a fork of {fork.source} ({fork.step}): what that run has read comes first"] if fork else []


def _stage(plan: Plan, number: int) -> dict[str, Any]:
    """One stage of the curriculum, which may be several rows of the table."""
    rows = [index for index, row in enumerate(plan.stages) if row.stage == number]
    first, last = plan.stages[rows[0]], plan.stages[rows[-1]]
    steps, tokens = (sum(getattr(plan.stages[index], name) for index in rows) for name in ("steps", "tokens"))
    expected, epochs = plan.expected_tokens(), plan.epochs_by_row()
    return {
        "stage": number,
        "steps": steps,
        "tokens": tokens,
        "seq_len": first.seq_len,
        "batch_rows": first.batch_rows,
        "step_tokens": first.step_tokens,
        "table_rows": len(rows),
        "domains": {
            name: {
                "weight": sum(expected[index][name] for index in rows) / tokens,
                "first_weight": first.weights[place] / PERIOD,
                "last_weight": last.weights[place] / PERIOD,
                "tokens": round(sum(expected[index][name] for index in rows)),
                "epochs": sum(epochs[index][name] for index in rows),
            }
            for place, name in enumerate(plan.domains)
        },
    }


def _budget(config: RunConfig, model: ModelConfig) -> dict[str, Any]:
    train = config.train
    given = {name: getattr(train, name) for name in ("max_steps", "tokens", "tokens_per_param")}
    budget: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if model.vocab_size is not None:
        counts = count_parameters(model)
        budget |= {
            "parameters": counts.total,
            "non_embedding_parameters": counts.non_embedding,
            "vocab_size": model.resolved_vocab_size,
        }
    return budget


def _show(found: Mapping[str, Any]) -> None:
    from rich.console import Console

    from rayllm.report.formats import count

    console = Console(highlight=False)
    if found["source"] == "--sizes":
        padding = ", without the padding of best_fit" if found["packing"] == "best_fit" else ""
        console.print(f"Sizes from the command line{padding}.")
    else:
        console.print(f"Tokens of {found['source']}, packing {found['packing']}.", soft_wrap=True)
    console.print(f"{found['steps']:,} steps, {count(found['tokens'])} tokens{_reason(found)}.\n", soft_wrap=True)
    for table in (_stage_table(found), _domain_table(found), _run_table(found)):
        console.print(table)
        console.print()
    for note in found["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
    for warning in found["warnings"]:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)


def _reason(found: Mapping[str, Any]) -> str:
    """How the budget follows from the run file and the model."""
    from rayllm.report.formats import count

    budget = found["budget"]
    if "parameters" not in budget:
        return ""
    asked = f"{budget['tokens_per_param']:g} were asked for; " if "tokens_per_param" in budget else ""
    return (
        f": {found['tokens'] / budget['parameters']:.1f} for each of {count(budget['parameters'])} parameters "
        f"({asked}all are counted, {count(budget['non_embedding_parameters'])} without embeddings)"
    )


def _stage_table(found: Mapping[str, Any]) -> Any:
    from rayllm.report.formats import count

    table = _table("stage", ("steps", "tokens", "seq_len", "rows a step", "tokens a step", "weights"))
    for stage in found["stages"]:
        moving = f"move in {stage['table_rows']} pieces" if stage["table_rows"] > 1 else "fixed"
        numbers = (f"{stage[name]:,}" for name in ("seq_len", "batch_rows", "step_tokens"))
        table.add_row(str(stage["stage"]), f"{stage['steps']:,}", count(stage["tokens"]), *numbers, moving)
    return table


def _domain_table(found: Mapping[str, Any]) -> Any:
    from rayllm.report.formats import count

    table = _table("stage", ("domain", "weight", "tokens", "epochs"))
    for stage in found["stages"]:
        for place, (name, domain) in enumerate(stage["domains"].items()):
            number = str(stage["stage"]) if place == 0 else ""
            table.add_row(number, name, _weight(domain), count(domain["tokens"]), f"{domain['epochs']:.2f}")
        table.add_section()
    return table


def _weight(domain: Mapping[str, Any]) -> str:
    first, last = domain["first_weight"], domain["last_weight"]
    return f"{first:.1%}" if first == last else f"{first:.1%} → {last:.1%}"


def _run_table(found: Mapping[str, Any]) -> Any:
    from rayllm.report.formats import count

    table = _table("run", ("unique tokens", "weight", "tokens", "epochs", "max_epochs"))
    for name, domain in found["domains"].items():
        cap, epochs = domain["max_epochs"], f"{domain['epochs']:.2f}"
        over = cap is not None and domain["epochs"] > cap
        table.add_row(
            name,
            count(domain["unique_tokens"]),
            f"{domain['weight']:.1%}",
            count(domain["tokens"]),
            f"[yellow]{epochs}[/]" if over else epochs,
            "none" if cap is None else f"{cap:g}",
        )
    table.add_section()
    unique = sum(domain["unique_tokens"] for domain in found["domains"].values())
    table.add_row("all", count(unique), "100.0%", count(found["tokens"]), "", "")
    return table


def _table(first: str, others: tuple[str, ...]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="left" if name in ("domain", "weights") else "right", overflow="fold")
    return table
