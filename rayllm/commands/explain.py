"""``rayllm explain``: the exact batch of a step, back to the documents in it.

In: a run file and a step as ``metrics.jsonl`` and the console count them. Out: every row's domain, place in the shards,
documents with their row in the corpus, and text; and hashes of the ids. The batch comes from the reader that training
uses, by the plan that training wrote, or the one that it would write.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rayllm.core import storage
from rayllm.core.artifact import Artifact
from rayllm.core.errors import ConfigError
from rayllm.data.mixing.plan import Plan, StageRow
from rayllm.data.mixing.weights import PERIOD
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines.existing import find_artifacts, train_directory
from rayllm.pipelines.run_config import RunConfig, has_stage, load_run

if TYPE_CHECKING:
    from rayllm.commands.row_view import Row
    from rayllm.data.batches import Batch

PLAN = "plan.json"
#: Rows that are shown when none are asked for.
SHOWN_ROWS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", help="run file (YAML)")
    parser.add_argument("overrides", nargs="*", default=[], help="settings such as train.seq_len=512")
    parser.add_argument(
        "--step", type=int, required=True, help="optimizer step as metrics.jsonl counts them; the first one is 1"
    )
    parser.add_argument("--rows", help=f"rows of the global batch, as 3, 0-7 or all (default: the first {SHOWN_ROWS})")
    parser.add_argument("--rank", type=int, help="only the rows of this rank")
    parser.add_argument("--world-size", type=int, default=1, help="ranks of the run, for --rank (default: %(default)s)")
    parser.add_argument("--width", type=int, help="columns (default: the terminal's)")
    parser.add_argument("--json", action="store_true", help="print JSON, ids included")


def run(args: argparse.Namespace) -> int:
    """Rebuild the batch and show it."""
    config = load_run(args.file, args.overrides)
    artifacts = find_artifacts(config, "reference" if has_stage("reference", config) else "pack", args.file)
    found = rebuild(config, artifacts, args)
    if args.json:
        sys.stdout.write(json.dumps(found.to_json(), ensure_ascii=False) + "\n")
    else:
        _show(found, args.width)
    return 0


@dataclass(frozen=True)
class Explanation:
    """A batch, rebuilt.

    Attributes:
        step: Optimizer step, the first one being 1.
        plan: The run's plan.
        plan_uri: Where it was read; None where training has not written one yet.
        packed: The packed data.
        selected: The rows of the global batch that the hash is over.
        sha256: Hash of the ids and labels of those rows.
        rows: Those that are shown.
        adaptive: Whether the mixture may move where training has not been yet.
    """

    step: int
    plan: Plan
    plan_uri: str | None
    packed: PackedData
    selected: list[int]
    sha256: str
    rows: list["Row"]
    adaptive: bool = False

    def to_json(self) -> dict[str, Any]:
        """All of it for programs."""
        index, stage, _ = self.plan.at(self.step - 1)
        codec = self.packed.codec()
        return {
            "step": self.step,
            "stage": index,
            "seq_len": stage.seq_len,
            "batch_rows": stage.batch_rows,
            "packing": self.plan.packing,
            "plan": self.plan_uri,
            "packed": self.packed.uri,
            "selected_rows": self.selected,
            "sha256": self.sha256,
            "rows": [_row_json(row, self.plan, codec.decode(row.batch.input_ids[0].numpy())) for row in self.rows],
        }


def _row_json(row: "Row", plan: Plan, text: str) -> dict[str, Any]:
    passages = [asdict(passage) | origin for passage, origin in zip(row.passages, row.origins, strict=True)]
    return {
        "row": row.place.row,
        "domain": plan.domains[row.place.domain],
        "number": row.place.number,
        "segments": [list(segment) for segment in row.place.segments],
        "sha256": ids_hash(row.batch),
        "passages": passages,
        "input_ids": row.batch.input_ids[0].tolist(),
        "labels": row.batch.labels[0].tolist(),
        "doc_ids": row.batch.doc_ids[0].tolist(),
        "text": text,
    }


def rebuild(config: RunConfig, artifacts: Mapping[str, Artifact], args: argparse.Namespace) -> Explanation:
    """The batch of a step as training reads it.

    Args:
        config: The run.
        artifacts: Those of ``prepare`` and ``pack``.
        args: The command line.

    Raises:
        ConfigError: If there is no such step, row or rank.
        DataError: If the packed data is not that of the plan.
    """
    from rayllm.commands.row_view import trace
    from rayllm.data.batches import open_reader

    packed = PackedData.open(artifacts["pack"].uri)
    plan, plan_uri = find_plan(config, artifacts, packed)
    if not 1 <= args.step <= plan.total_steps:
        raise ConfigError(
            f"the run has no step {args.step}", where="--step", fix=f"name one from 1 to {plan.total_steps:,}"
        )
    selected = _selected(plan.at(args.step - 1)[1].batch_rows, args.rank, args.world_size)
    shown = selected[:SHOWN_ROWS] if args.rows is None else _asked(args.rows, selected)
    reader = open_reader(packed, plan)
    places = reader.places(args.step - 1, shown)
    batches = [reader.rows(args.step - 1, [place.row]) for place in places]
    streams = {index: packed.stream("train", plan.domains[index]) for index in {place.domain for place in places}}
    return Explanation(
        step=args.step,
        plan=plan,
        plan_uri=plan_uri,
        packed=packed,
        selected=selected,
        sha256=ids_hash(reader.rows(args.step - 1, selected)),
        rows=trace(streams, artifacts["prepare"].uri, places, batches),
        adaptive=config.mixture.adaptive is not None,
    )


def find_plan(config: RunConfig, artifacts: Mapping[str, Artifact], packed: PackedData) -> tuple[Plan, str | None]:
    """The plan that training wrote, with where it is; the one that it would write where it has not begun."""
    from rayllm.pipelines.train.fork import load_fork
    from rayllm.pipelines.train.planning import plan_packed

    uri = storage.join(train_directory(config, artifacts), PLAN)
    if storage.exists(uri):
        return Plan.from_json(storage.read_text(uri)), uri
    return plan_packed(config, packed, load_fork(config, packed, "")), None


def ids_hash(batch: "Batch") -> str:
    """SHA-256 of a batch's ids and labels, as little-endian int64, row after row."""
    digest = hashlib.sha256()
    for tensor in (batch.input_ids, batch.labels):
        digest.update(np.ascontiguousarray(tensor.numpy(), "<i8").data)
    return digest.hexdigest()


def _selected(batch_rows: int, rank: int | None, world_size: int) -> list[int]:
    """Rows of the global batch, or of a rank's share of it."""
    from rayllm.data.batches import PADDING_ROW, rank_rows

    if rank is None:
        return list(range(batch_rows))
    if not 0 <= rank < world_size:
        raise ConfigError(
            f"there is no rank {rank} of {world_size}", where="--rank", fix="give --world-size too; ranks begin at 0"
        )
    return [row for row in rank_rows(batch_rows, world_size, rank) if row != PADDING_ROW]


def _asked(text: str, selected: Sequence[int]) -> list[int]:
    """Read ``3``, ``0-7`` or ``all``."""
    first, _, last = text.partition("-")
    if text == "all":
        return list(selected)
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise ConfigError(f"cannot read {text!r}", where="--rows", fix="write one row as 3, several as 0-7, or all")
    wanted = range(int(first), int(last or first) + 1)
    missing = [row for row in wanted if row not in set(selected)]
    if missing or not wanted:
        there = f"{selected[0]} to {selected[-1]}" if selected else "none"
        raise ConfigError(f"there are no rows {text}", where="--rows", why=f"those to choose from are {there}")
    return list(wanted)


def _show(found: Explanation, width: int | None) -> None:
    from rayllm.commands.row_view import RowView

    view = RowView(found.packed.codec(), width, lines_per_passage=1)
    view.facts(_head(found))
    for row in found.rows:
        domain = found.plan.domains[row.place.domain]
        where = f"{row.passages[0].shard}:{row.passages[0].shard_token:,}"
        view.row(f"row {row.place.row}  {domain}  from {where}  sha256 {ids_hash(row.batch)[:12]}", row)


def _weights(found: Explanation, stage: StageRow) -> str:
    """The weights of the step; an adaptive mixture is a table that grows, so those of steps to come may change."""
    parts = ", ".join(
        f"{name} {weight / PERIOD:.1%}" for name, weight in zip(found.plan.domains, stage.weights, strict=True)
    )
    return (
        f"{parts}; adaptive: of steps that training has not reached, as of its last move" if found.adaptive else parts
    )


def _head(found: Explanation) -> list[tuple[str, str]]:
    index, stage, _ = found.plan.at(found.step - 1)
    shown, there = len(found.rows), len(found.selected)
    return [
        ("step", f"{found.step:,} of {found.plan.total_steps:,}: part {index} of the plan, {found.plan.packing} rows"),
        ("", f"{stage.batch_rows:,} rows of {stage.seq_len:,} tokens in the global batch"),
        ("weights", _weights(found, stage)),
        ("plan", found.plan_uri or "as training would write it; it has not begun"),
        ("packed", found.packed.uri),
        ("batch", f"sha256 {found.sha256} of the ids and labels of {there:,} rows"),
        ("shown", f"{shown:,} of {there:,} rows" + ("; --rows all shows the rest" if shown < there else "")),
    ]
