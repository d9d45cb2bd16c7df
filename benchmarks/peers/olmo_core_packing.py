"""OLMo-core's packer over given pieces; run by the interpreter of its own environment.

Arguments: the pieces (npy of first and last token + 1, none longer than a row), the length of a row, a file for the
tokens of every row (npy). Prints the seconds. The three classes of the packer are taken from the installed file as they
stand: importing the file would need torch and clients of object stores, which the packer does not use.
"""

import ast
import importlib.util
import math
import sys
import time
import typing
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("SegmentTreeNode", "SegmentTree", "InstancePacker")


def load_packer() -> Any:
    """``olmo_core.data.utils.InstancePacker``."""
    spec = importlib.util.find_spec("olmo_core")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "data" / "utils.py"
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in CLASSES]
    names = {"np": np, "math": math, "deque": deque, "defaultdict": defaultdict, "dataclass": dataclass}
    space = {**vars(typing), **names, "__name__": "olmo_core.data.utils"}
    exec(compile(tree, str(path), "exec"), space)
    return space["InstancePacker"]


def main(pieces_path: str, seq_len: str, held_path: str) -> None:
    packer_class, pieces = load_packer(), np.load(pieces_path)
    start = time.perf_counter()
    rows, placed, tokens = packer_class(int(seq_len)).pack_documents(pieces)
    seconds = time.perf_counter() - start
    lengths = (placed[:, 1] - placed[:, 0]).tolist()
    held = np.array([sum(lengths[piece] for piece in row) for row in rows], np.int64)
    assert sorted(piece for row in rows for piece in row) == list(range(len(pieces)))
    assert held.sum() == tokens
    np.save(held_path, held)
    print(seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
