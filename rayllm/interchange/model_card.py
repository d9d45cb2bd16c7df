"""The README of an exported model: what it is, on what it was trained, how good it is, how to use it."""

from typing import Any

import yaml

from rayllm.core import storage
from rayllm.interchange.layouts import ARCHITECTURES, model_type
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.model.lora.config import LoraConfig
from rayllm.tokenizer.chat.template import read_template

LOAD_ADAPTERS = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "PATH")"""

LOAD = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")"""

CONTINUE = 'ids = tokenizer(tokenizer.bos_token + "Once", return_tensors="pt")'

ASK = """messages = [{"role": "user", "content": "What is 12 + 7?"}]
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")"""

WRITE = "print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0]))"


def model_card(uri: str, config: ModelConfig, state: dict[str, Any]) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        uri: The checkpoint; its ``run.yaml`` tells about the data.
        config: The exported model.
        state: Its ``state.json``: step, tokens, validation.
    """
    run = yaml.safe_load(storage.read_text(storage.join(uri, "run.yaml")))
    tags = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["rayllm"]}
    rows = {
        "architecture": f"`{ARCHITECTURES[model_type(config)]}`",
        "parameters": f"{count_parameters(config).total:,}",
        "layers, width, heads": f"{config.num_layers}, {config.dim}, {config.num_heads}",
        "context": f"{config.max_seq_len:,} tokens",
        "vocabulary": f"{config.resolved_vocab_size:,} ids",
        "trained for": f"{state['step']:,} steps, {state['tokens']:,} tokens",
        "precision": str(run["train"]["precision"]),
    }
    lines = ["---", yaml.safe_dump(tags, sort_keys=False).rstrip(), "---", "", f"# {run['name']}", ""]
    lines += ["Trained with rayllm.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += _training(state)
    return "\n".join([*lines, *_use(uri, LOAD)])


def adapter_card(uri: str, base: str, lora: LoraConfig, state: dict[str, Any]) -> str:
    """Markdown for adapters alone.

    Args:
        uri: The checkpoint; its ``run.yaml`` tells about the data.
        base: Where transformers finds the base.
        lora: Settings of the adapters.
        state: Its ``state.json``.
    """
    run = yaml.safe_load(storage.read_text(storage.join(uri, "run.yaml")))
    tags = {"library_name": "peft", "base_model": base, "pipeline_tag": "text-generation", "tags": ["rayllm", "lora"]}
    rows = {
        "base": f"`{base}`",
        "rank, alpha": f"{lora.rank}, {lora.alpha:g}",
        "matrices": ", ".join(lora.targets),
        "trained for": f"{state['step']:,} steps, {state['tokens']:,} tokens",
    }
    lines = ["---", yaml.safe_dump(tags, sort_keys=False).rstrip(), "---", "", f"# {run['name']}", ""]
    lines += ["Low-rank adapters, trained with rayllm.", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]
    lines += _training(state)
    return "\n".join([*lines, *_use(uri, LOAD_ADAPTERS)])


def _use(uri: str, load: str) -> list[str]:
    """How to load it and let it write: a reply, if it has learnt a chat template."""
    chats = read_template(uri) is not None
    begins = "A conversation" if chats else "A document"
    hint = f"{begins} begins with the end-of-text token{', which the chat template writes' if chats else ''}."
    return ["", "## Use", "", hint, "", "```python", load, ASK if chats else CONTINUE, WRITE, "```", ""]


def _training(state: dict[str, Any]) -> list[str]:
    """What it was trained on, and how good it is."""
    lines, domains = [], state.get("domain_tokens", {})
    if domains:
        total = max(sum(domains.values()), 1)
        lines += ["", "## Training data", "", "| domain | tokens | share |", "|---|--:|--:|"]
        lines += [f"| {name} | {count:,} | {count / total:.1%} |" for name, count in domains.items()]
    if scores := _scores(state.get("validation") or {}):
        lines += ["", "## Validation", "", "| domain | bits per byte | perplexity |", "|---|--:|--:|", *scores]
    return lines


def _scores(validation: dict[str, float]) -> list[str]:
    names = [key.removeprefix("bits_per_byte/") for key in validation if key.startswith("bits_per_byte/")]
    return [
        f"| {name} | {validation[f'bits_per_byte/{name}']:.3f} | {validation[f'perplexity/{name}']:.2f} |"
        for name in names
    ]
