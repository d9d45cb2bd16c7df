"""Models of transformers to ours and back: logits, greedy text, files, and what cannot be taken."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from figures import Tell
from ranks import MODEL, run_ranks, small_config, train_small
from safetensors.torch import load_file, save_file

from rayllm.cli import main
from rayllm.core.errors import ArtifactDamaged, ConfigError
from rayllm.inference.config import SamplingConfig
from rayllm.inference.generate import generate
from rayllm.inference.loading import load_checkpoint
from rayllm.interchange.hf_export import export_checkpoint
from rayllm.interchange.hf_import import import_model, read_model_config
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer
from rayllm.tokenizer.codec import Codec

transformers = pytest.importorskip("transformers")

SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 99, "initializer_range": 0.2},
    "llama": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99,
        "intermediate_size": 40, "max_position_embeddings": 64, "initializer_range": 0.2, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 777.0},
    },
    "qwen3": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99,
        "intermediate_size": 40, "max_position_embeddings": 64, "head_dim": 16, "initializer_range": 0.2,
    },
}  # fmt: skip

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 777.0}


def save_theirs(kind: str, directory: Path, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(4)
    config = transformers.AutoConfig.for_model(kind, **SMALL[kind] | changes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(directory, max_shard_size="20KB")
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(99, shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", SMALL)
@torch.no_grad()
def test_a_model_made_by_transformers_is_imported_with_its_logits(kind: str, tmp_path: Path, tell: Tell) -> None:
    theirs = save_theirs(kind, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = import_model(str(tmp_path))
    expected, found = theirs(tokens(2, 50)).logits, ours.logits(tokens(2, 50))
    gap = float((expected - found).abs().max())
    largest = f"{float(expected.abs().max()):.1f}"
    tell("import and export", what=f"import of {kind}", largest_gap_of_logits=f"{gap:.1e}", largest_logit=largest)
    assert expected.std() > 1
    assert gap < 1e-5
    options = {"max_new_tokens": 20, "sampling": SamplingConfig(temperature=0), "stop_ids": set(), "seed": 0}
    text = generate(ours, tokens(1, 8).tolist(), **options)[0]
    assert text == theirs.generate(tokens(1, 8), max_new_tokens=20, do_sample=False)[0, 8:].tolist()


def test_settings_that_say_what_is_done_anyway_are_taken(tmp_path: Path) -> None:
    save_theirs("llama", tmp_path)
    _edit(tmp_path, rope_parameters=YARN | {"truncate": True, "partial_rotary_factor": 1.0})
    scaling = read_model_config(str(tmp_path)).positions.model_dump()["scaling"]
    assert (scaling["kind"], scaling["factor"], scaling["original_max_seq_len"]) == ("yarn", 4.0, 16)


def test_the_trained_stories_model_writes_its_known_text(shared_data: Path) -> None:
    directory = shared_data / "checkpoints" / "stories260K"
    expected = json.loads((directory / "expected_greedy.json").read_text())
    prompt, whole = expected["prompt_ids"], expected["greedy_ids"]
    found = generate(
        import_model(str(directory)),
        [prompt],
        max_new_tokens=len(whole) - len(prompt),
        sampling=SamplingConfig(temperature=0),
        stop_ids=set(),
        seed=0,
    )[0]
    assert prompt + found == whole


def test_names_of_gpt2s_own_files_are_known(tmp_path: Path) -> None:
    save_theirs("gpt2", tmp_path / "a")
    ours = import_model(str(tmp_path / "a"))
    weights = {name: t for path in (tmp_path / "a").glob("*.safetensors") for name, t in load_file(path).items()}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_bytes((tmp_path / "a" / "config.json").read_bytes())
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    save_file(renamed | {"h.0.attn.bias": torch.ones(1, 1, 64, 64)}, tmp_path / "b" / "model.safetensors")
    assert torch.equal(import_model(str(tmp_path / "b")).logits(tokens(1, 9)), ours.logits(tokens(1, 9)))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda d: (d / "config.json").unlink(), ConfigError, "name a directory with a config.json"),
        (lambda d: _edit(d, model_type="mamba"), ConfigError, "type 'mamba' cannot be imported"),
        (lambda d: _edit(d, hidden_act="relu"), ConfigError, "hidden_act: relu"),
        (lambda d: _edit(d, rope_parameters={"rope_type": "longrope"}), ConfigError, "'longrope' cannot be imported"),
        (lambda d: _edit(d, rope_parameters=YARN | {"truncate": False}), ConfigError, "truncate: False"),
        (lambda d: _edit(d, rope_parameters=YARN | {"partial_rotary_factor": 0.5}), ConfigError, "rotary_factor: 0.5"),
        (lambda d: _edit(d, partial_rotary_factor=0.5), ConfigError, "partial_rotary_factor: 0.5"),
        (
            lambda d: _edit(d, rope_parameters={"rope_type": "yarn", "factor": 4.0}),
            ConfigError,
            r"config\.json(.|\n)*it has no original_max_position_embeddings",
        ),
        (lambda d: _remove(d, "num_attention_heads"), ConfigError, r"config\.json(.|\n)*it has no num_attention_heads"),
        (lambda d: _edit(d, num_hidden_layers=3), ArtifactDamaged, "model.layers.2"),
        (lambda d: _edit(d, num_hidden_layers=1), ArtifactDamaged, "hold more than the model"),
        (lambda d: _edit(d, intermediate_size=41), ArtifactDamaged, "gate_proj.weight has 40 rows, not 41"),
        (lambda d: _edit(d, hidden_size=48, head_dim=8), ArtifactDamaged, "another shape"),
        (lambda d: [path.unlink() for path in d.glob("*.safetensors")], ArtifactDamaged, "cannot be read"),
        (lambda d: [path.unlink() for path in d.glob("model*")], ArtifactDamaged, "pickled weights are not read"),
    ],
    ids=[
        "no config",
        "kind",
        "activation",
        "rope",
        "yarn not cut",
        "part of a head",
        "part of a head, older",
        "no context",
        "no heads",
        "too few",
        "too many",
        "rows",
        "columns",
        "no shards",
        "no weights",
    ],
)
def test_what_cannot_be_imported_is_refused_with_the_reason(
    change: Callable[[Path], Any], error: type[Exception], told: str, tmp_path: Path
) -> None:
    save_theirs("llama", tmp_path)
    change(tmp_path)
    with pytest.raises(error, match=told):
        import_model(str(tmp_path))


def _edit(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _remove(directory: Path, key: str) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))


LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
assert "rayllm" not in sys.modules
assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
ids = tokenizer(tokenizer.bos_token + "the quick", return_tensors="pt").input_ids
text = model.generate(ids, max_new_tokens=12, do_sample=False)
torch.save({"ids": ids, "logits": model(ids).logits.detach(), "text": text}, sys.argv[2])
"""


def loaded_elsewhere(exported: Path, clean: Path) -> dict[str, torch.Tensor]:
    """What transformers makes of a directory in an empty place."""
    clean.mkdir()
    subprocess.run([sys.executable, "-I", "-c", LOAD, str(exported), "seen.pt"], cwd=clean, check=True)
    return torch.load(clean / "seen.pt", weights_only=True)


@pytest.mark.parametrize("max_shard_bytes", [2 << 30, 20_000])
def test_an_exported_checkpoint_loads_in_transformers_with_no_code_of_ours(
    checkpoint: Path, tmp_path: Path, max_shard_bytes: int, tell: Tell
) -> None:
    done = export_checkpoint(str(checkpoint), str(tmp_path / "out"), max_shard_bytes=max_shard_bytes)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == (1 if max_shard_bytes > 1 << 20 else 5)
    seen = loaded_elsewhere(tmp_path / "out", tmp_path / "clean")
    loaded = load_checkpoint(str(checkpoint))
    ids = seen["ids"]
    assert ids[0].tolist() == [loaded.codec.separator_id, *loaded.codec.encode("the quick")]
    real = loaded.codec.vocab_size
    with torch.no_grad():
        gap = float((loaded.model.logits(ids)[..., :real] - seen["logits"]).abs().max())
    largest = f"{float(seen['logits'].detach().abs().max()):.1f}"
    what = f"export of {done.parameters:,} parameters"
    tell("import and export", what=what, largest_gap_of_logits=f"{gap:.1e}", largest_logit=largest)
    assert gap < 1e-5
    assert seen["logits"].shape[-1] == real < loaded.model.config.resolved_vocab_size
    options = {"max_new_tokens": 12, "sampling": SamplingConfig(temperature=0), "stop_ids": set(), "seed": 0}
    assert seen["text"][0, ids.shape[1] :].tolist() == generate(loaded.model, ids.tolist(), **options)[0]


@pytest.mark.parametrize("kind", SMALL)
def test_every_layout_goes_through_files_of_ours_and_back(
    kind: str, tmp_path: Path, tokenizer: Path, as_checkpoint: Callable[[Transformer], Path], tell: Tell
) -> None:
    theirs = save_theirs(kind, tmp_path / "theirs", vocab_size=Codec.load(str(tokenizer)).vocab_size)
    checkpoint = as_checkpoint(import_model(str(tmp_path / "theirs")))
    done = export_checkpoint(str(checkpoint), str(tmp_path / "out"))
    seen = loaded_elsewhere(tmp_path / "out", tmp_path / "clean")
    with torch.no_grad():
        expected = theirs(seen["ids"]).logits
    gap = float((expected - seen["logits"]).abs().max())
    largest = f"{float(expected.abs().max()):.1f}"
    tell("import and export", what=f"{kind} and back", largest_gap_of_logits=f"{gap:.1e}", largest_logit=largest)
    assert done.layout == kind
    assert gap < 1e-5


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_checkpoint_of_any_stage_of_zero_is_exported_with_what_the_ranks_held(
    stage: int, tmp_path: Path, tokenizer: Path, tell: Tell
) -> None:
    model = MODEL.model_copy(update={"vocab_size": None, "real_vocab_size": None})
    model = model.with_vocab(Codec.load(str(tokenizer)).vocab_size)
    files = {path.name: path.read_bytes() for path in tokenizer.iterdir()}
    files |= {"model.json": model.model_dump_json().encode(), "run.yaml": b"{name: small, train: {precision: fp32}}"}
    train = partial(train_small, model=model, files=files)
    config = small_config(max_steps=2)
    trained = run_ranks(train, 2, str(tmp_path / "run"), "deepspeed", stage, config)[0]["weights"]
    export_checkpoint(str(tmp_path / "run"), str(tmp_path / "out"), prefer="last")
    again, real = import_model(str(tmp_path / "out")), model.real_vocab_size
    held = {name: trained[name][:real] if name.endswith("tokens.weight") else trained[name] for name in trained}
    assert held.keys() == dict(again.named_parameters()).keys()
    assert all(torch.equal(again.get_parameter(name), tensor) for name, tensor in held.items())
    tell("export of what two ranks trained", zero_stage=stage, tensors=len(held), weights="bit for bit")


EXPORT = """
import sys, threading
from pathlib import Path
from rayllm.interchange.hf_export import export_checkpoint

def held():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, held())

before = peak = held()
done = threading.Event()
thread = threading.Thread(target=watch)
thread.start()
export_checkpoint(sys.argv[1], sys.argv[2], dtype="bfloat16", max_shard_bytes=int(sys.argv[3]))
done.set()
thread.join()
Path(sys.argv[4]).write_text(str(peak - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read memory from")
def test_an_export_holds_some_shards_and_never_the_model(
    tmp_path: Path, tokenizer: Path, as_checkpoint: Callable[[Transformer], Path], tell: Tell
) -> None:
    sizes = {"dim": 256, "num_layers": 48, "num_heads": 4, "ffn_dim": 1024, "max_seq_len": 64}
    config = ModelConfig.model_validate(sizes).with_vocab(Codec.load(str(tokenizer)).vocab_size)
    checkpoint, shard = as_checkpoint(Transformer(config)), 3_000_000
    paths = [str(checkpoint), str(tmp_path / "out"), str(shard), str(tmp_path / "peak")]
    subprocess.run([sys.executable, "-c", EXPORT, *paths], check=True)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    peak = int((tmp_path / "peak").read_text())
    tell("memory of an export", written_MB=written // 10**6, shard_MB=shard // 10**6, peak_MB=peak // 10**6)
    assert written > 15 * shard
    assert peak < written / 2


def test_an_export_comes_back_bit_for_bit_and_has_a_card(checkpoint: Path, tmp_path: Path) -> None:
    export_checkpoint(str(checkpoint), str(tmp_path / "out"))
    again, loaded = import_model(str(tmp_path / "out")), load_checkpoint(str(checkpoint))
    real = loaded.codec.vocab_size
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(again.get_parameter(name), parameter[:real] if name.endswith("tokens.weight") else parameter)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| trained for | 7 steps, 1,000 tokens |" in card
    assert 'tokenizer(tokenizer.bos_token + "Once"' in card
    assert "chat" not in card


def test_half_precision_is_what_was_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    export_checkpoint(str(checkpoint), str(tmp_path / "out"), dtype="bfloat16")
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_nothing_is_written_over(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="the output is not empty"):
        export_checkpoint(str(checkpoint), str(tmp_path / "out"))


def test_export_to_an_object_store_and_back(checkpoint: Path) -> None:
    export_checkpoint(str(checkpoint), "memory://exported/model")
    assert read_model_config("memory://exported/model").dim == 32
    import_model("memory://exported/model")


def test_the_commands_say_what_they_did(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--max-shard", "1M"]) == 0
    assert "qwen3" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "out")]) == 0
    assert "train.init: from_hf:" in capsys.readouterr().out
    assert main(["export", str(checkpoint), str(tmp_path / "other"), "--max-shard", "many"]) == 2
