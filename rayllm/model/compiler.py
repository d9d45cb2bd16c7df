"""torch's compiler: whether a run uses it, with which settings, and where kernels are kept.

In: what was asked for, and the device. Out: a choice with its reason, for the console and environment.json, and
compiled functions. What of a model is compiled, ``Transformer.compile_training`` says.
"""

import functools
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

import torch

from rayllm.core.errors import SetupError

P = ParamSpec("P")
R = TypeVar("R")

#: Versions of one piece of code, each for other shapes: lengths of a curriculum, times the last, smaller micro-batch,
#: times kinds of layers. Beyond it, torch says so and runs further shapes uncompiled.
MAX_VERSIONS = 64
#: Precisions in which compiled steps were compared with others (``tests/model/test_compiler.py``).
TRIED = ("fp32", "bf16")
#: What compiles the kernels of each kind of device; the first that is found.
COMPILERS = {"cpu": ("g++", "clang++", "c++"), "cuda": ("gcc", "clang", "cc")}
#: Environment variables that name another.
CHOSEN_COMPILER = {"cpu": "CXX", "cuda": "CC"}


@dataclass(frozen=True)
class CompileChoice:
    """Whether steps are compiled, and why."""

    enabled: bool
    why: str


def choose_compile(
    asked: bool | str,
    device: torch.device,
    *,
    precision: str = "fp32",
    sharded: bool = False,
    selective: bool = False,
) -> CompileChoice:
    """Whether to compile.

    ``auto`` compiles on GPUs, where what is not fused is most of the cost beside matrix products. On a CPU it does not:
    compiling costs ten seconds and more for every new size, and the gain is smaller. Nor does it in a precision in
    which compiled steps were never compared with others: that has to be asked for.

    Args:
        asked: ``auto``, or yes or no.
        device: Where the model computes.
        precision: In what.
        sharded: Whether parameters are whole only while their layer runs (ZeRO-3), which cannot be compiled.
        selective: Whether the backward pass computes some results of a block again, which it cannot do within compiled
            code.

    Raises:
        SetupError: If it was asked for and is not possible here.
    """
    if asked is False:
        return CompileChoice(False, "not asked for")
    obstacle = _obstacle(device, sharded=sharded, selective=selective)
    if asked is True and obstacle:
        raise SetupError(
            "the model cannot be compiled here",
            where="train.compile=true",
            why=obstacle,
            fix="set train.compile=false, or auto, which compiles where it can and pays",
        )
    if asked is True:
        return CompileChoice(True, "asked for")
    if device.type != "cuda":
        return CompileChoice(False, "it takes a while, and pays for long runs only: train.compile=true")
    if not obstacle and precision not in TRIED:
        return CompileChoice(False, f"compiled steps in {precision} have not been tried: train.compile=true")
    return CompileChoice(not obstacle, obstacle or "the device is a GPU")


def keep_kernels(directory: Path) -> None:
    """Keep compiled kernels there for later runs, unless ``TORCHINDUCTOR_CACHE_DIR`` says where; before compiling."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(directory))


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled when it is first called with a shape.

    Shapes are constants of the kernels: a run has few, and none may slow down the kernels of the others.
    """
    import torch._dynamo.config  # takes a second, which only those who compile shall wait

    torch._dynamo.config.recompile_limit = MAX_VERSIONS
    with compiler_on():
        return torch.compile(function, dynamic=False)


@functools.cache
def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function as it is, also where compiled code calls it: for kernels whose arguments differ in every batch."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:  # around it, else one that is compiled by itself would not be
        return function(*args, **kwargs)

    return cast(Callable[P, R], torch.compiler.disable(call))


@contextmanager
def compiler_on() -> Iterator[None]:
    """The workers' environment turns torch's compiler off, which ``torch.compile`` would obey without a word."""
    before = os.environ.pop("TORCHDYNAMO_DISABLE", None)
    try:
        yield
    finally:
        if before is not None:
            os.environ["TORCHDYNAMO_DISABLE"] = before


def _obstacle(device: torch.device, *, sharded: bool, selective: bool) -> str:
    """What keeps torch from compiling for a device; empty if nothing does."""
    if sharded:
        return "ZeRO stage 3 gathers the parameters of each layer while it runs, which cannot be compiled"
    if selective:
        return "activation_checkpointing: selective keeps results inside a block, which compiled code does not show"
    if device.type not in COMPILERS:
        return f"torch's compiler is not used on {device.type}"
    names = [os.environ.get(CHOSEN_COMPILER[device.type], ""), *COMPILERS[device.type]]
    if not any(shutil.which(name) for name in names if name):
        return f"there is no compiler ({', '.join(COMPILERS[device.type])}) on the PATH"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        return f"Python's headers are not installed ({header} is missing)"
    if device.type == "cuda" and find_spec("triton") is None:
        return "the package triton is not installed"
    return ""
