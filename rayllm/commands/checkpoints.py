"""``rayllm checkpoints``: what a run has saved, whether it is whole, and what to keep of it.

In: a train artifact or its ``checkpoints/`` directory, at any URI. ``ls`` lists, ``verify`` reads every file and
compares its hash, and lets one be used again that was set aside as damaged and has been restored. ``pin`` and ``unpin``
choose what is never deleted, ``prune`` deletes the rest but the newest and the best.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rayllm.core import storage
from rayllm.core.checkpoint import (
    COMMIT,
    DIRECTORY,
    Best,
    CheckpointRef,
    is_pinned,
    is_set_aside,
    list_checkpoints,
    pin,
    read_best,
    take_back,
    unpin,
    verify_checkpoint,
)
from rayllm.core.errors import ArtifactDamaged, ConfigError
from rayllm.report.formats import data_size, fixed
from rayllm.train.retention import beyond_what_is_kept, prune


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = _action(actions, "ls", "list them, oldest first", _list)
    listing.add_argument("--json", action="store_true", help="one JSON object for each")
    verify = _action(actions, "verify", "read every file of every checkpoint and compare its hash", _verify)
    verify.add_argument("--quick", action="store_true", help="compare sizes only")
    for name, text, handler in (
        ("pin", "never delete a checkpoint", _pin),
        ("unpin", "let a checkpoint be deleted again", _unpin),
    ):
        _action(actions, name, text, handler).add_argument("name", help="its name, such as step-00000500-a1")
    pruning = _action(actions, "prune", "delete all but the newest, the best and the pinned", _prune)
    pruning.add_argument("--keep-last", type=int, default=2, help="newest ones to keep, at least 2 (default: 2)")
    pruning.add_argument("--drop-best", action="store_true", help="do not keep the best")
    pruning.add_argument("--dry-run", action="store_true", help="only say what would be deleted")


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    handler: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("run", help="train artifact or `checkpoints/` directory (path or URI)")
    parser.set_defaults(act=handler)
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what was asked; 1 if a checkpoint is damaged."""
    return int(args.act(args))


@dataclass(frozen=True)
class Entry:
    """What a listing shows of a checkpoint."""

    name: str
    step: int
    attempt: int
    bytes: int
    pinned: bool
    damaged: bool
    best: Best | None

    def to_json(self) -> str:
        """One JSON object; ``best`` is the value by which it is the best, and ``metric`` of what."""
        best = {"best": self.best and self.best.value, "metric": self.best and self.best.metric}
        return json.dumps(vars(self) | best)

    def line(self) -> str:
        """One row of text."""
        notes = [f"best ({self.best.metric} {fixed(self.best.value, 4)})"] if self.best is not None else []
        notes += [word for word, true in (("pinned", self.pinned), ("damaged", self.damaged)) if true]
        return f"{self.name:24} {data_size(self.bytes):>10}  {', '.join(notes)}".rstrip()


def _directory(uri: str) -> str:
    directory = storage.join(uri, DIRECTORY)
    return directory if storage.exists(directory) else uri


def _checkpoints(uri: str) -> list[CheckpointRef]:
    refs = list_checkpoints(_directory(uri), also_set_aside=True)
    if not refs:
        raise ConfigError(
            "there is no checkpoint here",
            where=uri,
            why=f"no directory in it is named step-… and has a {COMMIT}",
            fix="give a train artifact (`<storage>/<run>/train-…`) or its `checkpoints/` directory",
        )
    return refs


def _name(ref: CheckpointRef) -> str:
    return ref.uri.rstrip("/").rpartition("/")[2]


def _entries(uri: str) -> Iterable[Entry]:
    refs = _checkpoints(uri)
    best = read_best(_directory(uri))
    for ref in refs:
        name = _name(ref)
        its = best if best is not None and best.name == name else None
        size = storage.directory_size(ref.uri)
        yield Entry(name, ref.step, ref.attempt, size, is_pinned(ref.uri), is_set_aside(ref.uri), its)


def _list(args: argparse.Namespace) -> int:
    for entry in _entries(args.run):
        sys.stdout.write((entry.to_json() if args.json else entry.line()) + "\n")
    return 0


def _verify(args: argparse.Namespace) -> int:
    damaged = 0
    for ref in _checkpoints(args.run):
        try:
            commit = verify_checkpoint(ref.uri, deep=not args.quick)
        except ArtifactDamaged as error:
            damaged += 1
            sys.stdout.write(f"{_name(ref):24} damaged: {error.where}: {error.why}\n")
        else:
            what = "sizes" if args.quick else "hashes"
            again = ""
            if is_set_aside(ref.uri):
                take_back(ref.uri)
                again = "; it was set aside and is used again"
            sys.stdout.write(f"{_name(ref):24} whole: {what} of all files of {commit.world_size} rank(s){again}\n")
    return 1 if damaged else 0


def _find(args: argparse.Namespace) -> CheckpointRef:
    refs = _checkpoints(args.run)
    for ref in refs:
        if _name(ref) == args.name:
            return ref
    names = ", ".join(_name(ref) for ref in refs)
    raise ConfigError(f"there is no checkpoint {args.name}", where=args.run, why=f"there are {names}", fix="name one")


def _pin(args: argparse.Namespace) -> int:
    pin(_find(args).uri)
    sys.stdout.write(f"{args.name} is never deleted by training or by `rayllm checkpoints prune`\n")
    return 0


def _unpin(args: argparse.Namespace) -> int:
    unpin(_find(args).uri)
    sys.stdout.write(f"{args.name} is kept only while it is among the newest or the best\n")
    return 0


def _prune(args: argparse.Namespace) -> int:
    if args.keep_last < 2:
        raise ConfigError(
            "at least two checkpoints are kept",
            where="--keep-last",
            why=f"it is {args.keep_last}, and one alone is lost when it is damaged",
            fix="set it to 2 or more, or remove the directory by hand",
        )
    _checkpoints(args.run)
    keep_best = not args.drop_best
    directory = _directory(args.run)
    doomed = beyond_what_is_kept(directory, args.keep_last, keep_best=keep_best)
    freed = sum(storage.directory_size(uri) for uri in doomed)
    if not args.dry_run:
        prune(directory, args.keep_last, keep_best=keep_best)
    verb = "would delete" if args.dry_run else "deleted"
    sys.stdout.writelines(f"{verb} {uri}\n" for uri in doomed)
    sys.stdout.write(f"{verb} {len(doomed)} checkpoints, {data_size(freed)}\n")
    return 0
