"""``rayllm sample``: continue a prompt with a checkpoint, shown as it is written."""

import argparse
import sys
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rayllm.core.errors import ConfigError
from rayllm.inference.config import SamplingConfig

if TYPE_CHECKING:  # commands are listed without loading a tokenizer
    from rayllm.tokenizer.codec import Codec

#: New tokens when none are asked for, if the model's context has room for them.
DEFAULT_NEW_TOKENS = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    default = SamplingConfig()
    parser.add_argument("checkpoint", help="checkpoint, `checkpoints/` directory or train artifact (path or URI)")
    parser.add_argument("prompt", nargs="?", default="", help="text to continue (default: begin a document)")
    parser.add_argument("--chat", action="store_true", help="the prompt is a question: write a reply to it")
    parser.add_argument(
        "--max-new-tokens", type=int, help=f"length of the continuation (default: {DEFAULT_NEW_TOKENS}, or what fits)"
    )
    parser.add_argument("--temperature", type=float, default=default.temperature, help="default: %(default)s")
    parser.add_argument("--top-k", type=int, default=default.top_k, help="0 for all tokens (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=default.top_p, help="1 for all tokens (default: %(default)s)")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")
    parser.add_argument("--seed", type=int, default=0, help="of the choices (default: %(default)s)")
    parser.add_argument("--num", type=int, default=1, help="how many continuations (default: %(default)s)")
    parser.add_argument(
        "--prefer", choices=["best", "last"], default="best", help="which checkpoint of several (default: %(default)s)"
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: cuda where there is one)")


def run(args: argparse.Namespace) -> int:
    """Load, say what was loaded on standard error, write text to standard output."""
    sampling = read_sampling(args)
    import torch

    from rayllm.inference.generate import generate, stream
    from rayllm.inference.loading import load_checkpoint
    from rayllm.inference.text_stream import TextStream

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_checkpoint(args.checkpoint, prefer=args.prefer, device=device)
    prompt, stops = _question(args, loaded.uri, loaded.codec) if args.chat else _beginning(args, loaded.codec)
    shown = "" if args.chat else args.prompt
    room = loaded.model.config.max_seq_len - len(prompt)
    options = {
        "max_new_tokens": args.max_new_tokens or max(1, min(DEFAULT_NEW_TOKENS, room)),
        "sampling": sampling,
        "stop_ids": stops,
        "seed": args.seed,
    }
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    sys.stderr.write(f"{loaded.uri}: {size / 1e6:.1f} M parameters, step {loaded.state['step']:,}, on {device}\n")
    if args.num == 1:
        text = TextStream(loaded.codec.decode)
        _write(shown)
        for (token,) in stream(loaded.model, [prompt], **options):
            _write(text.flush() if token is None else text.push(token))
        _write(text.flush() + "\n")
        return 0
    for number, ids in enumerate(generate(loaded.model, [prompt] * args.num, **options), start=1):
        _write(f"--- {number} ---\n{shown}{loaded.codec.decode(ids)}\n")
    return 0


def _beginning(args: argparse.Namespace, codec: "Codec") -> tuple[list[int], set[int]]:
    """A text to continue, and where it ends."""
    return [codec.separator_id, *codec.encode(args.prompt)], {codec.separator_id}


def _question(args: argparse.Namespace, uri: str, codec: "Codec") -> tuple[list[int], set[int]]:
    """A question in the checkpoint's chat template, and where the reply to it ends.

    Raises:
        ConfigError: If the checkpoint has none.
    """
    from rayllm.tokenizer.chat.render import any_length
    from rayllm.tokenizer.chat.template import read_template

    template = read_template(uri)
    if template is None:
        raise ConfigError(
            "this model has learnt no chat template",
            where=uri,
            fix="leave out --chat, or fine-tune it on conversations",
        )
    renderer = any_length(template, codec)
    prompt = renderer.prompt_ids([{"role": "user", "content": args.prompt}])
    return prompt, {codec.separator_id, *renderer.stop_ids()}


def read_sampling(args: argparse.Namespace) -> SamplingConfig:
    """The sampler's settings from the command line.

    Raises:
        ConfigError: If one is out of range, or there is nothing to write.
    """
    for name in ("num", "max_new_tokens"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 or more")
    try:
        return SamplingConfig(temperature=0.0 if args.greedy else args.temperature, top_k=args.top_k, top_p=args.top_p)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option} is {first['input']}: {first['msg'].lower()}") from error


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
