"""``rayllm plan``: what a run will take before it is started: parameters, disk, memory, time and money.

In: a run file; no data is needed. Out: the forecast, beside it what a few real steps on this machine measured; as
tables or, with ``--json``, for programs.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from rayllm.core.config import parse_count
from rayllm.core.errors import ConfigError
from rayllm.pipelines.run_config import load_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", help="run file (YAML)")
    parser.add_argument("overrides", nargs="*", default=[], help="settings such as train.workers.count=8")
    parser.add_argument("--device", help="plan for this device: h100, h200, a100, l40s, … or cpu (default: this one's)")
    parser.add_argument("--mfu", type=float, help="share of the device's peak that training uses (default: 0.4)")
    parser.add_argument("--price-per-hour", type=float, help="price of a device for an hour, in any currency")
    parser.add_argument("--vocab", help="ids of the tokenizer, where neither it nor the run file tells")
    parser.add_argument(
        "--probe",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure a few real steps, where the model fits on this machine (default: yes)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Plan and print; 0 unless the run file is wrong."""
    from rayllm.pipelines.plan.describe import Options, describe

    config = load_run(args.file, args.overrides)
    options = Options(args.file, args.device, args.mfu, args.price_per_hour, _vocab(args.vocab), args.probe)
    found = describe(config, options)
    if args.json:
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    else:
        _show(found)
    return 0


def _vocab(text: str | None) -> int | None:
    value = parse_count(text)
    if text is not None and (not isinstance(value, int) or value < 1):
        raise ConfigError(f"cannot read {text!r} as a number of ids", where="--vocab", fix="write --vocab 32768")
    return value if isinstance(value, int) else None


def _show(found: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    run = found["run"]
    ranks = f"{run['world_size']} rank{'s' if run['world_size'] > 1 else ''}"
    console.print(f"[bold]{run['name']}[/]: {ranks} on {run['device']}, {run['precision']}\n", soft_wrap=True)
    for title, table in (
        ("Model and data", _model_table(found)),
        ("Memory of a rank, by ZeRO stage", _memory_table(found)),
        ("Disk", _disk_table(found)),
        ("Time", _time_table(found)),
    ):
        console.print(f"[bold]{title}[/]")
        console.print(table)
    for line in found["notes"]:
        console.print(f"note: {line}", soft_wrap=True)
    for line in found["warnings"]:
        console.print(f"[yellow]warning:[/] {line}", soft_wrap=True)


def _model_table(found: Mapping[str, Any]) -> Any:
    from rayllm.report.formats import count, join_words

    parameters, run = found["parameters"], found["run"]
    parts = [f"{name} {count(value)}" for name, value in parameters.items() if name != "total" and value]
    table = _table("", "")
    table.add_row("parameters", f"{count(parameters['total'])}: {join_words(parts)}")
    table.add_row("vocabulary", f"{run['vocab_size']:,}, from {run['vocab_from']}")
    for number, stage in enumerate(found["stages"]):
        name = f"stage {number}" if len(found["stages"]) > 1 else "training"
        batch = f"{stage['batch_rows']:,} rows of {stage['seq_len']:,}"
        micro = f"{stage['micro_batches']} micro-batch{'es' if stage['micro_batches'] > 1 else ''} of {stage['rows']}"
        table.add_row(name, f"{stage['steps']:,} steps of {batch}; a rank takes {micro}")
    each = f"{run['tokens_with_forked'] / parameters['total']:.1f} for each parameter"
    fork = f" with those until step {run['forked_at']:,}, where it forks" if run["forked_at"] else ""
    table.add_row("tokens", f"{count(run['tokens'])}, {each}{fork}")
    flops = found["flops"]
    table.add_row("FLOPs", f"{flops['per_token']:.2e} a token, {flops['total']:.2e} in all")
    return table


def _memory_table(found: Mapping[str, Any]) -> Any:
    from rayllm.report.formats import data_size

    memory, run = found["memory"], found["run"]
    columns = {"plain torch": memory["configured"]} if run["zero_stage"] is None else {}
    columns |= {f"ZeRO {stage}": terms for stage, terms in enumerate(memory["by_zero_stage"])}
    here = f"ZeRO {run['zero_stage']}" if run["zero_stage"] is not None else "plain torch"
    columns[here] = memory["configured"]
    table = _table("", *(f"[bold]{name} ◂[/]" if name == here else name for name in columns), numbers=True)
    terms = dict.fromkeys(term for column in columns.values() for term in column["device"])
    for term in sorted(terms, key=lambda term: -memory["configured"]["device"].get(term, 0)):
        table.add_row(term, *(data_size(column["device"].get(term)) for column in columns.values()))
    table.add_section()
    table.add_row("in all", *(f"[bold]{data_size(column['total'])}[/]" for column in columns.values()))
    if memory["configured"]["host_total"]:
        table.add_row("host memory", *(data_size(column["host_total"]) for column in columns.values()))
    return table


def _disk_table(found: Mapping[str, Any]) -> Any:
    from rayllm.report.formats import data_size

    disk = found["disk"]
    table = _table("", "")
    table.add_row("packed data", f"{data_size(disk['packed'])}, {disk['packed_from']}")
    kept = f"{disk['kept']} at a time"
    table.add_row(
        "checkpoints", f"{data_size(disk['checkpoint'] * disk['kept'])}: {kept}, {data_size(disk['checkpoint'])} each"
    )
    free = f" of {data_size(disk['free'])} free" if disk["free"] is not None else ""
    table.add_row("in all", f"[bold]{data_size(disk['total'])}[/]{free}")
    return table


def _time_table(found: Mapping[str, Any]) -> Any:
    from rayllm.report.formats import count, data_size, duration, percent

    time, probe = found["time"], found["probe"]
    table = _table("", "")
    if probe is not None:
        memory = f"{data_size(probe['peak_bytes'])} at the peak, {data_size(probe['predicted_bytes'])} predicted"
        difference = percent(probe["predicted_bytes"] / probe["peak_bytes"] - 1)
        table.add_row("probe, memory", f"{memory} ({difference})")
        for timing in probe["timings"]:
            shape = f"{timing['rows']} rows of {timing['seq_len']:,}"
            micro, rest = duration(timing["micro_s"]), duration(timing["step_s"])
            table.add_row("probe, time", f"{micro} for {shape}, {rest} for the rest of a step")
    if time is None:
        table.add_row("training", "unknown without a probe")
        return table
    steps = ", ".join(f"{seconds:.3g} s" for seconds in time["step_s"])
    table.add_row("a step", f"{steps}: {count(time['tokens_per_s'])} tokens/s, from {time['source']}")
    table.add_row("training", f"[bold]{duration(time['training_s'])}[/]")
    table.add_row("validation", f"{duration(time['validation_s'])}, at most")
    if time["price"] is not None:
        table.add_row("price", f"[bold]{time['price']:,.2f}[/] for {time['device_hours']:,.1f} device hours")
    return table


def _table(first: str, *others: str, numbers: bool = False) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD if numbers else box.SIMPLE, pad_edge=False, show_header=numbers)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    return table
