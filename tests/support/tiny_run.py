"""A whole run in miniature: JSONL of two domains and the run file over them, for tests of what users run."""

import json
from pathlib import Path
from typing import Any

import yaml
from packing_fixture import texts_of

#: Settings of training that tests change.
TRAIN: dict[str, Any] = {
    "seq_len": 64,
    "global_batch_tokens": 1024,
    "micro_batch_size": 8,
    "max_steps": 12,
    "precision": "fp32",
    "optimizer": {"lr": 3e-3},
    "checkpoint": {"every_steps": 4},
    "validation": {"every_steps": 6, "max_tokens": 1024},
    "logging": {"every_steps": 1, "tensorboard": False},
    "samples": {"every_steps": 6, "max_new_tokens": 4},
}


def write_sources(root: Path, documents: int = 150) -> dict[str, Path]:
    """``code.jsonl`` and ``math.jsonl`` below a directory."""
    root.mkdir(parents=True, exist_ok=True)
    paths = {}
    for domain in ("code", "math"):
        paths[domain] = root / f"{domain}.jsonl"
        lines = [json.dumps({"text": text}) for text in texts_of(domain, documents)]
        paths[domain].write_text("\n".join(lines) + "\n")
    return paths


def write_run(root: Path, storage: str, **train: Any) -> Path:
    """Write the sources and a run file over them.

    Args:
        root: Where they go.
        storage: ``storage:`` of the run file.
        **train: Changes to ``TRAIN``.

    Returns:
        The run file.
    """
    sources = write_sources(root / "raw")
    settings = {
        "name": "tiny",
        "storage": storage,
        "ray": {"num_cpus": 2, "object_store_bytes": 100_000_000},
        "sources": {name: {"kind": "jsonl", "path": str(path), "content": name} for name, path in sources.items()},
        "validation": {"heldout_frac": 0.1},
        "fit_tokenizer": {"vocab_size": 512},
        "mixture": {"weights": "uniform"},
        "model": {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 64, "max_seq_len": 64},
        "train": TRAIN | train,
        "evaluate": {"samples": {"per_domain": 1, "max_new_tokens": 8}},
    }
    file = root / "run.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file
