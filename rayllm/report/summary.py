"""The head of the page: what was trained, on what, for how long, how good it is, and what to do next."""

import shlex
from dataclasses import dataclass

from rayllm.core import storage
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.report.collect import RunRecords
from rayllm.report.formats import change, count, data_size, duration, fixed, join_words, percent
from rayllm.report.score_tables import better, mean_of

#: What a model that has learnt to reply may be asked.
QUESTION = "What is 12 + 7?"


@dataclass(frozen=True)
class Figure:
    """A key number: what it is, its value, and what to hold it against."""

    label: str
    value: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Command:
    """A command to go on with, and what it does."""

    purpose: str
    line: str


def lead(records: RunRecords) -> str:
    """One sentence: model, data, time."""
    if "train" not in records.artifacts:
        return "Nothing has been trained yet."
    parts = [f"A decoder-only transformer{_size(records)}"]
    if records.metrics.train:
        last = records.metrics.train[-1]
        parts.append(f"trained for {last['step']:,} steps on {count(last['tokens'])} tokens")
    if records.fork:
        parts.append(f"(the first {records.fork['step']:,} those of the run {records.fork['run']}, which it forks)")
    if records.domains:
        parts.append(f"of {join_words(records.domains)}")
    parts.append(f"in {duration(records.artifacts['train'].manifest.wall_s)}")
    return " ".join(parts) + "."


def _size(records: RunRecords) -> str:
    parameters = num_parameters(records)
    if parameters is None:
        return ""
    model = records.model
    return f" of {count(parameters)} parameters ({model['num_layers']} layers, width {model['dim']})"


def num_parameters(records: RunRecords) -> int | None:
    """Parameters of the model, a shared matrix once."""
    return count_parameters(ModelConfig.model_validate(records.model)).total if records.model else None


def figures(records: RunRecords) -> list[Figure]:
    """The key numbers."""
    found = preference_figures(records)
    before, after = (mean_of(s, "bits_per_byte") for s in (records.scores_before, records.scores_after))
    if after is not None:
        against = f"{change(before, after)} from {fixed(before)}" if before is not None else ""
        found.append(Figure("bits per byte, mean of domains", fixed(after), against, better(before, after)))
    baseline = mean_of(records.scores_after, "bigram_bits_per_byte")
    if after is not None and baseline is not None:
        found.append(Figure("against a bigram", change(baseline, after), f"bigram {fixed(baseline)}"))
    identified = (records.scores or {}).get("identification", {})
    if identified.get("total"):
        value = f"{identified['correct']} of {identified['total']}"
        found.append(Figure("samples in their domain", value, percent(identified["accuracy"], 0)))
    speeds = [r["tokens_per_s"] for r in records.metrics.train if r.get("tokens_per_s")]
    if speeds:
        found.append(Figure("tokens per second", count(round(sorted(speeds)[len(speeds) // 2])), "median"))
    if records.artifacts:
        total = sum(artifact.manifest.wall_s for artifact in records.artifacts.values())
        found.append(Figure("wall time, all stages", duration(total)))
    return found


def preference_figures(records: RunRecords) -> list[Figure]:
    """How well held-out pairs of replies are told apart; nothing where none were compared."""
    history = records.metrics.validation
    if not history or "mean_accuracy" not in history[-1]:
        return []
    first, last = history[0], history[-1]
    before = f"chosen likelier at first: {percent(first.get('mean_likelier'))}"
    return [
        Figure("accuracy on held-out pairs", percent(last["mean_accuracy"]), before),
        Figure("reward margin", fixed(last.get("mean_margin")), "mean of domains"),
    ]


def data_sentence(records: RunRecords) -> str:
    """What the run read, in one sentence; empty if the corpus is not known."""
    domains = records.counts("prepare").get("domains", {})
    if not domains:
        return ""
    documents = sum(row.get("train", {}).get("documents", 0) for row in domains.values())
    size = sum(row.get("train", {}).get("bytes", 0) for row in domains.values())
    dropped = sum(sum(row.get("dropped", {}).values()) for row in domains.values())
    return f"{count(documents)} training documents, {data_size(size)} of text; {count(dropped)} documents dropped."


def next_commands(records: RunRecords) -> list[Command]:
    """Commands that go on from here."""
    commands = []
    if records.checkpoint:
        purpose = "Ask the model" if records.chats else "Let the model write"
        commands.append(Command(purpose, sample_command(records.checkpoint, _beginning(records), chats=records.chats)))
    if "train" in records.artifacts:
        home = records.artifacts["train"].uri.rpartition("/")[0]
        run_file = shlex.quote(storage.join(home, "run.yaml"))
        longer = f"{records.name}-longer"
        steps = records.metrics.train[-1]["step"] * 2 if records.metrics.train else 1000
        per_param = records.config.get("train", {}).get("tokens_per_param") is not None
        budget = f"train.max_steps={steps} train.tokens=null" + (" train.tokens_per_param=null" if per_param else "")
        commands.append(
            Command("Train twice as long, under another name", f"rayllm run {run_file} name={longer} {budget}")
        )
        commands.append(Command("See every setting of this run", f"rayllm config show {run_file}"))
    return commands


def sample_command(checkpoint: str, beginning: str, *, chats: bool) -> str:
    """The command that lets a model write.

    Args:
        checkpoint: The model.
        beginning: A text that it could go on with.
        chats: Whether it has learnt a chat template: then it is asked a question instead.
    """
    prompt = f"{shlex.quote(QUESTION)} --chat" if chats else shlex.quote(beginning)
    return f"rayllm sample {shlex.quote(checkpoint)} {prompt}"


def _beginning(records: RunRecords) -> str:
    samples = (records.scores or {}).get("samples") or list(records.metrics.samples)
    words = samples[0]["prompt"].split() if samples else []
    return " ".join(words[:6]) or "Once upon a time"
