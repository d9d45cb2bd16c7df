"""What a command prints when it is done: where things are, the scores, a sample of each domain, what to do next."""

import json
from collections.abc import Mapping
from typing import Any

from rayllm.core import storage
from rayllm.core.artifact import Artifact
from rayllm.core.checkpoint import find_checkpoint
from rayllm.report.summary import sample_command
from rayllm.tokenizer.chat.template import read_template

SAMPLE_CHARACTERS = 240


def summarize(verb: str, file: str, artifacts: Mapping[str, Artifact]) -> str:
    """The closing lines of a command.

    Args:
        verb: The stage that was asked for, or ``run``.
        file: The run file, for the next commands.
        artifacts: What the command made or found.
    """
    parts = []
    if verb in ("run", "evaluate", "report") and "evaluate" in artifacts:
        scores = json.loads(storage.read_bytes(artifacts["evaluate"].file("scores.json")))
        parts += [scores_table(scores), samples_text(scores)]
    elif verb in artifacts:
        parts.append(f"{verb}: {artifacts[verb].uri}\n")
    if "report" in artifacts:
        home = artifacts["report"].uri.rpartition("/")[0]
        parts.append(f"report: {storage.join(home, 'report.html')}\n")
    if "train" in artifacts:
        checkpoint = find_checkpoint(artifacts["train"].uri)
        parts.append(next_commands(file, checkpoint))
    return "\n" + "\n".join(parts)


def scores_table(scores: Mapping[str, Any]) -> str:
    """Validation by domain, before and after training, in columns."""
    head = ("domain", "loss", "", "perplexity", "", "bits/byte", "", "change", "surprise", "bigram")
    rows: list[tuple[str, ...]] = [head]
    for name, after in scores["domains"].items():
        before = scores["before"].get(name)
        change = f"{after['bits_per_byte'] / before['bits_per_byte'] - 1:+.0%}" if before else ""
        rows.append(
            (
                name,
                f"{before['loss']:.3f} →" if before else "",
                f"{after['loss']:.3f}",
                f"{before['perplexity']:.0f} →" if before else "",
                f"{after['perplexity']:.1f}",
                f"{before['bits_per_byte']:.3f} →" if before else "",
                f"{after['bits_per_byte']:.3f}",
                change,
                f"{after['surprise_ratio']:.2f}",
                f"{after['bigram_bits_per_byte']:.3f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "validation, before → after training\n" + "\n".join(line.rstrip() for line in lines) + "\n"


def samples_text(scores: Mapping[str, Any]) -> str:
    """One sample of each domain, on two lines: the prompt, and what the model made of it."""
    seen: set[str] = set()
    lines = []
    for item in scores["samples"]:
        if item["domain"] in seen:
            continue
        seen.add(item["domain"])
        prompt, text = (" ".join(item[key].split())[:SAMPLE_CHARACTERS] for key in ("prompt", "text"))
        lines += [f"sample, {item['domain']}: {prompt}", f"  → {text}"]
    return "\n".join(lines) + "\n" if lines else ""


def next_commands(file: str, checkpoint: str) -> str:
    """Commands worth trying now; where the model has learnt to reply, those of fine-tuning."""
    chats = read_template(checkpoint) is not None
    sweep = "lora" if chats else "quickstart-mixture"
    lines = [
        sample_command(checkpoint, "def main(", chats=chats),
        *([] if chats else [f"rayllm run {file} name=mine train.optimizer.lr=2e-3"]),
        f"rayllm config show {file}",
        f"rayllm tune configs/sweep/{sweep}.yaml    # an example of a sweep",
    ]
    return "next:\n" + "".join(f"  {line}\n" for line in lines)
