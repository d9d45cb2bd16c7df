"""Fine-tuning from raw conversations on, in this process: prepare, the base's tokenizer, pack, steps, export."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from ranks import run_ranks
from small_session import all_records, forked_run
from transformers import AutoTokenizer
from without_ray import stages_without_ray, trained_base

from rayllm.cli import main
from rayllm.core.artifact import Artifact
from rayllm.core.errors import ConfigError
from rayllm.data.batches import make_batch
from rayllm.data.packing.row_index import open_rows
from rayllm.data.packing.rows import read_segments
from rayllm.data.shards.packed import PackedData
from rayllm.evals.config import EvaluateConfig, SampleConfig
from rayllm.evals.runner import Conditions, evaluate
from rayllm.evals.samples import choose_prompts
from rayllm.inference.loading import load_checkpoint
from rayllm.interchange.hf_export import export_checkpoint
from rayllm.model.config import IGNORE_INDEX
from rayllm.pipelines import fit_tokenizer
from rayllm.pipelines.run_config import RunConfig, load_run, stage_config
from rayllm.pipelines.runner import run_stages

MODEL = {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 64, "max_seq_len": 256}
STAGES = ["prepare", "fit_tokenizer", "pack"]


@pytest.fixture(scope="module", autouse=True)
def _no_ray() -> Iterator[None]:
    with stages_without_ray():
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that has trained a model for a few steps."""
    return trained_base(tmp_path_factory.mktemp("base"))


def settings(base: Path, root: Path, **changes: Any) -> dict[str, Any]:
    train = {
        "init": f"from_checkpoint:{base}",
        "seq_len": 256,
        "global_batch_tokens": 2048,
        "micro_batch_size": 4,
        "max_steps": 8,
        "packing": "best_fit",
        "precision": "fp32",
        "engine": {"kind": "torch"},
        "optimizer": {"lr": 5e-3},
        "checkpoint": {"every_steps": 8},
        "validation": {"every_steps": 8, "max_tokens": 1024},
        "samples": {"every_steps": 8, "max_new_tokens": 4},
        "logging": {"every_steps": 1, "tensorboard": False},
    }
    return {
        "name": "sft",
        "storage": str(root),
        "sources": {"sums": {"kind": "synthetic_conversations", "documents": 300}},
        "fit_tokenizer": {"kind": "adopt", "from_file": str(base)},
        "pack": {"chat": {"max_tokens": 256}},
        "model": MODEL,
        "train": train | changes,
    }


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact, Path]:
    """A run file, its packed data, and the directory in which it was trained."""
    root = tmp_path_factory.mktemp("sft")
    file = root / "sft.yaml"
    file.write_text(yaml.safe_dump(settings(base, root)))
    config = load_run(str(file), [])
    packed = run_stages(config, STAGES)["pack"]
    run_ranks(forked_run, 1, stage_config("train", config), packed.uri, str(root / "trained"))
    return file, packed, root / "trained"


def test_the_tokenizer_is_the_bases_and_only_replies_are_learnt(base: Path, tuned: tuple[Path, Artifact, Path]) -> None:
    _, packed, directory = tuned
    (theirs,) = base.rglob("checkpoints/step-00000004*/tokenizer.json")
    assert Path(packed.file("tokenizer.json")).read_bytes() == theirs.read_bytes()
    counts = packed.counts["train"]["sums"]
    assert counts["conversations"] + sum(counts["dropped"].values()) > 250
    assert 0.2 < counts["learnt_tokens"] / counts["tokens"] < 0.8
    events = [record["message"] for record in all_records(str(directory), "event")]
    assert any("% learnt" in line and "100.0%" not in line for line in events)
    losses = [record["loss"] for record in all_records(str(directory), "train")]
    assert losses[-1] < losses[0] - 0.3


def test_a_packed_conversation_sees_nothing_of_its_neighbours(tuned: tuple[Path, Artifact, Path]) -> None:
    _, packed, directory = tuned
    data, model = PackedData.open(packed.uri), load_checkpoint(str(directory)).model
    stream, rows = data.stream("train", "sums"), open_rows(data, "train", "sums", 256, "best_fit")
    segments = next(found for number in range(rows.num_rows) if len(found := rows.segments(number)) > 1)
    pieces = read_segments(stream, segments)
    together = make_batch([pieces], [0], 256, data.separator_id)
    losses = model(together.input_ids, together.labels, together.doc_ids)[0]
    at = 0
    for piece, (_, length) in zip(pieces, segments, strict=True):
        alone = make_batch([[piece]], [0], length, data.separator_id)
        expected = model(alone.input_ids, alone.labels, alone.doc_ids)[0]
        counted = alone.labels[0] != IGNORE_INDEX
        assert counted.any()
        torch.testing.assert_close(losses[at : at + length][counted], expected[counted], rtol=1e-4, atol=1e-5)
        at += length


def test_samples_are_replies_to_a_question(tuned: tuple[Path, Artifact, Path]) -> None:
    prompts = [record["prompt"] for record in all_records(str(tuned[2]), "sample")]
    assert prompts
    assert all(prompt.endswith("<|im_start|>assistant\n") for prompt in prompts)


def test_the_exported_model_has_the_template_and_stops_where_replies_end(
    tuned: tuple[Path, Artifact, Path], tmp_path: Path
) -> None:
    export_checkpoint(str(tuned[2]), str(tmp_path / "exported"))
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "exported"))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert text == "<|endoftext|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    stops = json.loads((tmp_path / "exported/generation_config.json").read_text())["eos_token_id"]
    assert sorted(tokenizer.convert_ids_to_tokens(stops)) == ["<|endoftext|>", "<|im_end|>"]


def test_the_card_of_an_exported_model_shows_how_to_ask_it(
    tuned: tuple[Path, Artifact, Path], tmp_path: Path, capsys: Any
) -> None:
    export_checkpoint(str(tuned[2]), str(tmp_path))
    code = (tmp_path / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert "apply_chat_template" in code
    exec(code.replace("PATH", str(tmp_path)).replace("max_new_tokens=50", "max_new_tokens=2"), {})
    asked = "<|endoftext|><|im_start|>user\nWhat is 12 + 7?<|im_end|>\n<|im_start|>assistant\n"
    assert capsys.readouterr().out.startswith(asked)


def test_evaluation_asks_whole_questions_and_scores_replies_only(tuned: tuple[Path, Artifact, Path]) -> None:
    _, packed, directory = tuned
    data = PackedData.open(packed.uri)
    loaded = load_checkpoint(str(directory))
    settings = EvaluateConfig(samples=SampleConfig(per_domain=2, max_new_tokens=4))
    found = evaluate(loaded, data, Conditions(seq_len=256, document_mask=True, max_tokens=4096, seed=1), settings, None)
    stream = data.stream("validation", "sums")
    learnt = stream.read_mask(1, min(stream.num_tokens - 1, 4096)).sum()
    assert found["domains"]["sums"]["tokens"] == learnt
    assert found["domains"]["sums"]["bigram_bits_per_byte"] > 0
    assert len(found["samples"]) == 2
    for sample in found["samples"]:
        assert sample["prompt"].startswith("<|im_start|>user\n")
        assert sample["prompt"].endswith("<|im_start|>assistant\n")


def test_the_prompts_of_an_evaluation_are_questions_with_their_separator(tuned: tuple[Path, Artifact, Path]) -> None:
    data = PackedData.open(tuned[1].uri)
    config = SampleConfig(per_domain=5, prompt_tokens=4)
    whole = choose_prompts(data, "sums", config, seed=1, longest_question=128)
    assert all(prompt.ids[0] == data.separator_id for prompt in whole)
    cut = choose_prompts(data, "sums", config, seed=1, longest_question=10)
    assert [prompt.ids for prompt in cut] == [prompt.ids[-10:] for prompt in whole], "of a long one the end is asked"
    assert [prompt.following for prompt in cut] == [prompt.following for prompt in whole]


def test_a_question_on_the_command_line_gets_a_reply(
    base: Path, tuned: tuple[Path, Artifact, Path], capsys: Any
) -> None:
    options = ["What is 2 + 2?", "--chat", "--max-new-tokens", "8", "--device", "cpu"]
    assert main(["sample", str(tuned[2]), *options]) == 0
    shown = capsys.readouterr().out
    assert shown.strip()
    assert "What is" not in shown
    assert main(["sample", str(base), *options]) == 2
    assert "has learnt no chat template" in capsys.readouterr().err


def test_the_preview_shows_what_is_only_read(tuned: tuple[Path, Artifact, Path], capsys: Any) -> None:
    assert main(["data", "preview", str(tuned[0]), "--rows", "1", "--width", "100"]) == 0
    shown = capsys.readouterr().out
    assert "|~<|im_start|>" in shown, "a turn's marker is only read"
    assert "|<|im_end|>" in shown, "the end of a reply is learnt"


def test_another_tokenizer_than_the_bases_is_refused_before_the_first_step(base: Path, tmp_path: Path) -> None:
    raw = settings(base, tmp_path) | {"fit_tokenizer": {"vocab_size": 384}}
    config = RunConfig.model_validate(raw)
    packed = run_stages(config, STAGES)["pack"]
    with pytest.raises(AssertionError, match="ArtifactDamaged: this is another tokenizer"):
        run_ranks(forked_run, 1, stage_config("train", config), packed.uri, str(tmp_path / "trained"))


def test_a_run_with_several_trainings_must_say_which(base: Path, tmp_path: Path) -> None:
    for name in ("train-a", "train-b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    config = fit_tokenizer.Config(name="t", fit_tokenizer={"kind": "adopt", "from_file": str(tmp_path / "runs")})
    with pytest.raises(ConfigError, match=r"several settings(.|\n)*train-a, train-b"):
        fit_tokenizer.fingerprint(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pack": {}}, r"sources\.sums has conversations: say in `pack\.chat`"),
        (
            {
                "pack": {},
                "sources": {"sums": {"kind": "synthetic_math", "documents": 10}},
                "validation": {"sources": {"sums": {"kind": "synthetic_conversations", "documents": 10}}},
            },
            r"validation\.sources\.sums has conversations: say in `pack\.chat`",
        ),
        ({"pack": {"chat": {"max_tokens": 257}}}, r"max_tokens` \(257\) to no more than the shortest row \(256\)"),
        ({"train": {"packing": "concat"}}, "set `train.packing: best_fit`"),
    ],
)
def test_settings_under_which_conversations_would_be_cut_are_refused(
    changes: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    raw = settings(base, tmp_path)
    raw = {
        name: {**value, **changes[name]} if name == "train" and name in changes else value
        for name, value in raw.items()
    }
    raw |= {name: value for name, value in changes.items() if name != "train"}
    with pytest.raises(ValidationError, match=message):
        RunConfig.model_validate(raw)
