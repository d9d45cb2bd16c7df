"""The command line: a verb for each stage, ``run`` for all of them, and the commands that make no artifact.

Exit codes: 0 done, 1 failed run, 2 bad config or usage, 3 environment, 75 saved and to be run again.
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rayllm.core.config import to_yaml
from rayllm.core.errors import ClusterLost, RayllmError
from rayllm.core.log import configure
from rayllm.pipelines import STAGES

#: Commands that make no artifact: name → (module, help). Each module has ``add_arguments`` and ``run``.
COMMANDS = {
    "sample": ("rayllm.commands.sample", "continue a prompt with a checkpoint"),
    "export": ("rayllm.commands.export", "write a checkpoint as a model of Hugging Face's transformers"),
    "merge": ("rayllm.commands.merge", "add adapters to their base: a checkpoint of one whole model"),
    "import": ("rayllm.commands.import_", "show a model of transformers as the `model:` part of a run file"),
    "explain": ("rayllm.commands.explain", "rebuild the batch of a step: rows, documents, text"),
    "data": ("rayllm.commands.data", "preview rows of packed data: documents, token boundaries, masks"),
    "depth": ("rayllm.commands.depth", "show what `depth: N` makes of a run, each setting with its reason"),
    "plan": ("rayllm.commands.plan", "what a run will take: parameters, memory, disk, time and money"),
    "mix": ("rayllm.commands.mix", "plan the mixture: tokens and epochs of every stage and domain"),
    "tokenizer": ("rayllm.commands.tokenizer", "compare tokenizers on the same texts: compression, fertility, speed"),
    "checkpoints": ("rayllm.commands.checkpoints", "list, verify, pin and prune the checkpoints of a run"),
    "submit": ("rayllm.commands.submit", "run a file as a job on a Ray cluster"),
    "doctor": ("rayllm.commands.doctor", "check this machine for what runs need"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parse(arguments)
    configure()
    try:
        return int(args.handler(args))
    except RayllmError as error:
        sys.stderr.write(f"error: {error}\n")
        if isinstance(error, ClusterLost):
            _leave(error.exit_code)
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write(
            "stopped; finished stages and saved checkpoints are kept, the same command goes on from there\n"
        )
        return 130


def _leave(code: int) -> None:
    """End this process at once: what Ray does at its end waits for a cluster that is gone, and then crashes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read a command line. Settings may follow options too; argparse alone takes them only right behind the file."""
    parser = build_parser(arguments[:1])
    args, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(args, "overrides") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def build_parser(wanted: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser; a command's module is imported only if it is the one wanted."""
    parser = argparse.ArgumentParser(
        prog="rayllm", description="Language-model training on a Ray cluster, from raw text to an exported model."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_stage(verbs, "run", "all stages of a run file in order")
    for stage in STAGES.values():
        _add_stage(verbs, stage.verb, stage.help)
    config = verbs.add_parser("config", help="check, show or describe configs")
    config.add_argument(
        "action", choices=["check", "show", "schema"], help="check a file, print it resolved, JSON schema"
    )
    config.add_argument("file", nargs="?", help="run file")
    config.add_argument("overrides", nargs="*", default=[], help="settings such as train.optimizer.lr=3e-4")
    config.set_defaults(handler=_config)
    for name, (module, text) in COMMANDS.items():
        command = verbs.add_parser(name, help=text)
        if name in wanted:
            loaded = importlib.import_module(module)
            loaded.add_arguments(command)
            command.set_defaults(handler=loaded.run)
    return parser


def _add_stage(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", verb: str, text: str) -> None:
    command = verbs.add_parser(verb, help=text, description=text)
    command.add_argument("file", help="run file (YAML)")
    command.add_argument("overrides", nargs="*", default=[], help="settings such as train.optimizer.lr=3e-4")
    command.add_argument("--force", action="store_true", help="make the stage's artifact again (run: all of them)")
    if verb == "tune":
        text = "look for the best mixture by a law, in rounds, each confirmed at new seeds"
        command.add_argument("--until-converged", action="store_true", help=text)
    command.set_defaults(handler=_stages)


def _stages(args: argparse.Namespace) -> int:
    from rayllm.pipelines import ray_runtime
    from rayllm.pipelines.run_config import load_run
    from rayllm.pipelines.runner import run_stages, verbs_for, verbs_of_run
    from rayllm.pipelines.summary import summarize

    converged = ["tune.law.until_converged=true"] if getattr(args, "until_converged", False) else []
    config = load_run(args.file, [*args.overrides, *converged])
    verbs = verbs_of_run() if args.verb == "run" else verbs_for(args.verb)
    force = (verbs if args.verb == "run" else [args.verb]) if args.force else []
    with ray_runtime.stopping_ray():
        artifacts = run_stages(config, verbs, force=force)
    sys.stdout.write(summarize(args.verb, args.file, artifacts))
    return 0


def _config(args: argparse.Namespace) -> int:
    from rayllm.core.errors import ConfigError
    from rayllm.pipelines.run_config import RunConfig, load_run

    if args.action == "schema":
        sys.stdout.write(json.dumps(RunConfig.model_json_schema(), indent=1, sort_keys=True) + "\n")
        return 0
    if args.file is None:
        raise ConfigError(
            f"`rayllm config {args.action}` needs a file", fix="name a run file, such as configs/run/quickstart.yaml"
        )
    config = load_run(args.file, args.overrides)
    if args.action == "show":
        sys.stdout.write(to_yaml(config))
    else:
        sys.stdout.write(f"{Path(args.file)}: ok\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
