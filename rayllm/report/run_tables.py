"""Tables of how the run went: time, events, settings, a sweep's trials. ``None`` where there is nothing to show."""

from collections.abc import Mapping
from typing import Any

from rayllm.report.collect import RunRecords
from rayllm.report.formats import MISSING, duration, percent, significant
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
    """The trials of a sweep, as its own table has them."""
    if not records.trials:
        return None
    names = list(dict.fromkeys(name for trial in records.trials for name in trial))
    numeric = {name: all(isinstance(t.get(name), int | float | None) for t in records.trials) for name in names}
    columns = tuple(Column(name.replace("_", " "), numeric=numeric[name]) for name in names)
    rows = tuple(tuple(Cell(_plain(trial.get(name))) for name in names) for trial in records.trials)
    return Table("Sweep", columns, rows)


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
    if isinstance(value, float):
        return significant(value, 4)
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return str(value)
