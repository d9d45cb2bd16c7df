"""Tables of how the run went: time, events, settings, a sweep's trials. ``None`` where there is nothing to show."""

from collections.abc import Mapping
from typing import Any

from rayllm.report.collect import RunRecords
from rayllm.report.formats import MISSING, duration, fixed, percent, significant
from rayllm.report.table import Cell, Column, Table


def time_table(records: RunRecords) -> Table | None:
    """Wall time of every stage."""
    walls = {verb: artifact.manifest.wall_s for verb, artifact in records.artifacts.items()}
    total = sum(walls.values())
    if not total:
        return None
    rows = [
        (Cell(verb.replace("_", " ")), Cell(duration(wall), bar=wall / total), Cell(percent(wall / total)))
        for verb, wall in walls.items()
    ]
    rows.append((Cell("all", tone="strong"), Cell(duration(total), tone="strong"), Cell("")))
    columns = (Column("Stage", numeric=False), Column("Wall time"), Column("Share"))
    return Table("Time by stage", columns, tuple(rows), "Stages that were found finished show the time they once took.")


def events_table(records: RunRecords) -> Table | None:
    """Warnings, restarts and other events."""
    if not records.metrics.events:
        return None
    rows = tuple(
        (
            Cell(f"{event['step']:,}"),
            Cell(f"{event['attempt']}"),
            Cell(str(event["level"]), tone="bad" if event["level"] in ("warning", "error") else ""),
            Cell(str(event["message"])),
        )
        for event in records.metrics.events
    )
    columns = (Column("Step"), Column("Attempt"), Column("Level", numeric=False), Column("Message", numeric=False))
    return Table("Events", columns, rows)


def trials_table(records: RunRecords) -> Table | None:
    """The trials of a sweep, best first: what was varied, the objective, bits per byte of each domain, time."""
    if not records.sweep:
        return None
    objective, trials = records.sweep["objective"], records.sweep["trials"]
    paths = list(dict.fromkeys(path for trial in trials for path in trial["settings"]))
    measures = [name for name in trials[0]["metrics"] if name.startswith("bits_per_byte/") and name != objective]
    columns = [Column("Trial"), *(Column(path, numeric=False) for path in paths), Column(objective.replace("_", " "))]
    columns += [Column(name.partition("/")[2], "Bits per byte") for name in measures] + [Column("Time")]
    rows = []
    for trial in trials:
        scores = trial["metrics"]
        result = Cell(fixed(trial["value"], 4), tone="strong")
        rows.append(
            (
                Cell(str(trial["trial"])),
                *(Cell(_plain(trial["settings"].get(path))) for path in paths),
                Cell("failed", tone="bad") if trial["error"] else result,
                *(Cell(fixed(scores.get(name))) for name in measures),
                Cell(duration(trial["wall_s"])),
            )
        )
    verdict = records.sweep.get("verdict", {}).get("sentence", "")
    note = f"{verdict} Best first. A setting without a value is as in the run file.".strip()
    return Table("Sweep", tuple(columns), tuple(rows), note)


def settings_table(caption: str, values: Mapping[str, Any]) -> Table | None:
    """A nested mapping as dotted names and values."""
    rows = tuple((Cell(name), Cell(_plain(value))) for name, value in _flat(values))
    columns = (Column("Name", numeric=False), Column("Value", numeric=False))
    return Table(caption, columns, rows) if rows else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in values.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return found


def _plain(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return significant(value, 6)
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return str(value)
