"""Results that are kept: what was measured, when, on what, as JSON for programs and as Markdown for people."""

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

DIRECTORY = Path(__file__).resolve().parents[1] / "results"
PACKAGES = ("torch", "deepspeed", "torchao", "triton", "ray")


@dataclass(frozen=True)
class Table:
    """Some rows under a title; every cell is text already."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As a table of Markdown."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return f"{self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe(device: torch.device) -> dict[str, str]:
    """When and on what."""
    found = {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")}
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        found["cuda"] = str(torch.version.cuda)
    found["python"] = platform.python_version()
    return found | {name: version for name in PACKAGES if (version := _version(name))}


def keep(name: str, device: torch.device, tables: Sequence[Table], directory: Path) -> Path:
    """Write the tables of a part; returns the Markdown file, beside which the JSON lies."""
    hardware = describe(device)
    day = hardware["date"].split()[0]
    stem = re.sub(r"[^a-z0-9]+", "-", f"{day}-{hardware['device']}-{name}".lower()).strip("-")
    directory.mkdir(parents=True, exist_ok=True)
    record = {"part": name, "hardware": hardware, "tables": [dataclasses.asdict(table) for table in tables]}
    (directory / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n")
    head = f"# {name}\n\n{', '.join(f'{key} {value}' for key, value in hardware.items())}\n\n"
    file = directory / f"{stem}.md"
    file.write_text(head + "\n\n".join(table.markdown() for table in tables) + "\n")
    return file


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
