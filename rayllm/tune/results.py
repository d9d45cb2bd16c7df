"""Results of a sweep: a ledger that survives interruptions, a ranking, tables.

In: one ``TrialResult`` at a time. Out: ``trials.jsonl``, from which an interrupted sweep goes on, and at the end the
trials in order of merit as JSON and Markdown.
"""

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged, RunFailed
from rayllm.tune.space import Settings


class TrialResult(BaseModel):
    """How a trial ended.

    Attributes:
        trial: Number of the trial.
        key: Hash of all that shapes its result; another key is another trial.
        settings: What made it differ from the run file.
        metrics: Of its last validation; empty if it failed.
        wall_s: Seconds it took.
        error: Why it failed; empty if it did not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    trial: int
    key: str
    settings: Settings
    metrics: dict[str, float] = {}
    wall_s: float = 0.0
    error: str = ""


class Ledger:
    """The finished trials of a sweep, in a JSONL file that is replaced as a whole, so that no line is ever torn.

    Args:
        uri: The file; read if it exists.

    Raises:
        ArtifactDamaged: If it cannot be read.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.results: list[TrialResult] = []
        text = storage.read_text(uri) if storage.exists(uri) else ""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                self.results.append(TrialResult.model_validate_json(line))
            except ValidationError as error:
                raise ArtifactDamaged(
                    "the ledger of the sweep cannot be read",
                    where=f"{uri}:{number}",
                    why=str(error).splitlines()[0],
                    fix="remove that line to run its trial again",
                ) from error

    def finished(self) -> dict[str, TrialResult]:
        """Trials that succeeded, by key: these never run again."""
        return {result.key: result for result in self.results if not result.error}

    def append(self, result: TrialResult) -> None:
        """Add a result, safe on the disk when this returns."""
        self.results.append(result)
        storage.write_text(self._uri, "".join(f"{line.model_dump_json()}\n" for line in self.results))


def finite(metrics: dict[str, JsonValue]) -> dict[str, float]:
    """The finite numbers among some metrics."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def rank(results: Sequence[TrialResult], objective: str) -> list[TrialResult]:
    """The trials in order of merit: lowest objective first, failed ones last.

    Raises:
        RunFailed: If all failed, with the causes.
    """
    good = [result for result in results if not result.error]
    if not good:
        causes = dict.fromkeys(f"trial {result.trial}: {result.error.splitlines()[0]}" for result in results)
        raise RunFailed("all trials of the sweep failed", why="; ".join(list(causes)[:5]))
    failed = [result for result in results if result.error]
    return sorted(good, key=lambda result: (result.metrics[objective], result.trial)) + failed


def to_json(ranked: Sequence[TrialResult], objective: str) -> dict[str, JsonValue]:
    """The ranking as JSON."""
    return {
        "objective": objective,
        "best": ranked[0].trial,
        "trials": [result.model_dump(mode="json") for result in ranked],
    }


def to_markdown(ranked: Sequence[TrialResult], objective: str) -> str:
    """The ranking as a Markdown table: settings, objective, bits per byte of each domain, time."""
    settings = list(dict.fromkeys(path for result in ranked for path in result.settings))
    prefix = "bits_per_byte/"
    domains = [name for name in ranked[0].metrics if name.startswith(prefix) and name != objective]
    header = ["rank", "trial", *(path.replace("|", "\\|") for path in settings), objective, *domains, "seconds"]
    rows = []
    for place, result in enumerate(ranked, 1):
        values = [
            _text(result.settings[path]) if path in result.settings else "as in the run file" for path in settings
        ]
        scores = [f"{result.metrics[name]:.4f}" if name in result.metrics else "" for name in (objective, *domains)]
        if result.error:
            scores[0] = "failed: " + result.error.splitlines()[0].replace("|", "\\|")
        rows.append([str(place), str(result.trial), *values, *scores, f"{result.wall_s:.0f}"])
    rule = ["---"] * len(header)
    return "".join("| " + " | ".join(row) + " |\n" for row in [header, rule, *rows])


def _text(value: JsonValue) -> str:
    """A setting for people: weights of a mixture in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
