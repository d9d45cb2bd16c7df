"""Adapters of a real run: into peft and back to equal logits, merged, moved, damaged."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from packing_fixture import make_packed
from ranks import run_ranks
from small_session import forked_run, make_config, records

from rayllm.cli import main
from rayllm.core.artifact import Artifact
from rayllm.core.checkpoint import list_checkpoints
from rayllm.core.errors import ArtifactDamaged, ConfigError
from rayllm.inference.loading import load_checkpoint
from rayllm.interchange.adapters import load_adapted
from rayllm.interchange.base import Base
from rayllm.interchange.hf_export import export_checkpoint
from rayllm.interchange.merge import merge_checkpoint
from rayllm.interchange.peft_export import _check_layout, _name, export_adapters
from rayllm.model.config import ModelConfig
from rayllm.model.lora.adapt import adapt, adapted_layers, draw_adapters
from rayllm.model.lora.config import LoraConfig, count_adapters
from rayllm.model.lora.saved import AdapterNote, read_note
from rayllm.model.saved import read_config
from rayllm.optim.config import AdamWConfig
from rayllm.optim.schedules import Rates
from rayllm.train.engine import TorchEngine

KINDS: dict[str, dict[str, Any]] = {
    "all": {"rank": 4, "alpha": 12},
    "rslora": {"rank": 4, "alpha": 12, "rslora": True, "targets": ["q_proj", "v_proj"]},
    "dora of some layers": {"rank": 4, "dora": True, "targets": ["model.layers.1.*", "o_proj"]},
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_packed(tmp_path_factory.mktemp("packed"), count=120)


def session(root: Path, packed: Artifact, **changes: Any) -> str:
    """A run of six steps; returns its last checkpoint."""
    settings = {"engine": {"kind": "torch"}, "max_steps": 6, "checkpoint": {"every_steps": 3}, **changes}
    run_ranks(forked_run, 1, make_config(root, **settings), packed.uri, str(root / "run"))
    return list_checkpoints(str(root / "run" / "checkpoints"))[-1].uri


@pytest.fixture(scope="module")
def base(packed: Artifact, tmp_path_factory: pytest.TempPathFactory) -> str:
    return session(tmp_path_factory.mktemp("base"), packed)


@pytest.fixture(scope="module")
def adapters(base: str, packed: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkpoint of each kind of adapters."""
    return {
        kind: session(
            tmp_path_factory.mktemp("adapters"),
            packed,
            init=f"from_checkpoint:{base}",
            lora=lora,
            optimizer={"lr": 0.02},
        )
        for kind, lora in KINDS.items()
    }


def tokens() -> torch.Tensor:
    return torch.randint(300, (2, 40), generator=torch.Generator().manual_seed(5))


def logits(uri: str) -> torch.Tensor:
    with torch.no_grad():
        return load_checkpoint(uri).model.logits(tokens())


@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_every_weight_and_gives_equal_logits(kind: str, adapters: dict[str, str], tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    done = export_adapters(adapters[kind], str(tmp_path / "out"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(done.base)
    with torch.no_grad():
        of_base = theirs(tokens()).logits
    model = peft.PeftModel.from_pretrained(theirs, done.uri)
    result = peft.set_peft_model_state_dict(model, peft.load_peft_weights(done.uri))
    assert result.unexpected_keys == []
    assert not any("lora" in key for key in result.missing_keys)
    with torch.no_grad():
        found = model.eval()(tokens()).logits
    expected = logits(adapters[kind])[..., : found.shape[-1]]
    assert float((found - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
    assert float((found - of_base).abs().max()) > 1e-2
    assert set(peft.get_peft_model_state_dict(model)) == set(peft.load_peft_weights(done.uri))
    trained = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    note = read_note(adapters[kind])
    assert note is not None
    assert trained == done.parameters
    assert trained == count_adapters(note.lora, load_checkpoint(adapters[kind]).model.config)


def test_the_first_update_is_that_of_peft(base: str, packed: Artifact, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    export_checkpoint(base, str(tmp_path / "base"))
    ours = load_checkpoint(base).model.train()
    adapt(ours, LoraConfig(rank=4, alpha=12))
    draw_adapters(ours, 1)
    settings = peft.LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), settings)
    pairs = []

    for name, layer in adapted_layers(ours):
        for matrix, (a, b, _) in layer.adapters().items():
            module = theirs.get_submodule(f"base_model.model.{name.rpartition('.')[0]}.{matrix}")
            with torch.no_grad():
                module.lora_A["default"].weight.copy_(a)
                b.copy_(torch.randn(b.shape, generator=torch.Generator().manual_seed(len(pairs))) * 0.02)
                module.lora_B["default"].weight.copy_(b)
            pairs += [(a, module.lora_A["default"].weight), (b, module.lora_B["default"].weight)]
    engine = TorchEngine(ours, AdamWConfig(grad_clip=0.0, weight_decay=0.01), "fp32", torch.device("cpu"))
    optimizer = torch.optim.AdamW(
        [p for p in theirs.parameters() if p.requires_grad], lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01
    )
    for _ in range(2):
        engine.backward(ours(tokens()[:, :-1], tokens()[:, 1:]).mean())
        engine.step(Rates(lr=1e-3))
        loss = torch.nn.functional.cross_entropy(
            theirs(tokens()[:, :-1]).logits.flatten(0, 1).float(), tokens()[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    gaps = [float((mine.detach() - other.detach()).abs().max()) for mine, other in pairs]
    assert max(gaps) < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_checkpoint_is_a_model_like_any_other(
    kind: str, adapters: dict[str, str], packed: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged = str(tmp_path / "merged")
    assert main(["merge", adapters[kind], merged]) == 0
    assert "use it like any checkpoint" in capsys.readouterr().out
    expected = logits(adapters[kind])
    assert float((logits(merged) - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))
    assert read_note(merged) is None
    export_checkpoint(merged, str(tmp_path / "exported"))
    if kind == "all":
        session(tmp_path / "next", packed, init=f"from_checkpoint:{merged}", max_steps=1)
        after = records(str(tmp_path / "next" / "run"), "validation")[0]["mean_bits_per_byte"]
        last = records(str(Path(adapters[kind]).parents[1]), "validation")[6]["mean_bits_per_byte"]
        assert after == pytest.approx(last, rel=1e-4)


def test_a_run_of_adapters_begins_as_its_base_and_is_sampled_without_merging(
    base: str, adapters: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run, before = Path(adapters["all"]).parents[1], Path(base).parents[1]
    found, expected = records(str(run), "validation"), records(str(before), "validation")
    assert found[0]["mean_bits_per_byte"] == pytest.approx(expected[6]["mean_bits_per_byte"], rel=1e-6)
    assert found[6]["mean_bits_per_byte"] < found[0]["mean_bits_per_byte"] - 0.01
    assert main(["sample", adapters["all"], "the", "--greedy", "--max-new-tokens", "4", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("the")


def test_a_whole_model_is_needed_where_one_is_needed(adapters: dict[str, str], base: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rayllm merge"):
        Base.parse(f"from_checkpoint:{adapters['all']}")
    with pytest.raises(ConfigError, match="rayllm merge"):
        export_checkpoint(adapters["all"], str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="no adapters"):
        merge_checkpoint(base, str(tmp_path / "out"))


def test_a_base_that_was_moved_is_named_and_another_one_is_refused(
    base: str, adapters: dict[str, str], tmp_path: Path
) -> None:
    copy = shutil.copytree(adapters["all"], tmp_path / "adapters")
    note = json.loads((copy / "lora.json").read_text())

    gone = AdapterNote.model_validate(note | {"base": f"from_checkpoint:{tmp_path}/gone"})

    with pytest.raises(ConfigError, match="there is no checkpoint here"):
        load_adapted(read_config(str(copy)), str(copy), gone)
    moved = shutil.copytree(base, tmp_path / "moved")
    merge_checkpoint(str(copy), str(tmp_path / "merged"), base=f"from_checkpoint:{moved}")
    expected = logits(adapters["all"])
    assert float((logits(str(tmp_path / "merged")) - expected).abs().max()) < 1e-4
    with pytest.raises(ArtifactDamaged, match="belong to another base"):
        merge_checkpoint(str(copy), str(tmp_path / "wrong"), base=f"from_checkpoint:{tmp_path}/merged")


def test_a_base_of_transformers_is_named_and_not_written_again(base: str, packed: Artifact, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    export_checkpoint(base, str(tmp_path / "theirs"))
    lora = {"rank": 4, "targets": ["down_proj"]}
    found = session(tmp_path, packed, init=f"from_hf:{tmp_path}/theirs", lora=lora, optimizer={"lr": 0.02})
    done = export_adapters(found, str(tmp_path / "out"))
    assert done.base == str(tmp_path / "theirs")
    assert not (tmp_path / "out" / "base").exists()
    model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(done.base), done.uri)
    with torch.no_grad():
        theirs = model.eval()(tokens()).logits
    expected = logits(found)[..., : theirs.shape[-1]]
    assert float((theirs - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))


def test_a_base_is_named_as_transformers_names_it(adapters: dict[str, str], tmp_path: Path) -> None:
    assert _name(Base.parse("from_hf:hf://org/some-model.2")) == "org/some-model.2"
    assert _name(Base.parse(f"from_hf:{tmp_path}")) == str(tmp_path)
    for elsewhere in ("s3://bucket/model", "hf://org/name@v1", "hf://org/name/below"):
        with pytest.raises(ConfigError, match="copy the base to a directory"):
            export_adapters(adapters["all"], str(tmp_path / "out"), base=f"from_hf:{elsewhere}")


def test_a_layout_with_one_matrix_for_three_is_refused() -> None:
    names = {"positions": {"kind": "learned"}, "norm": "layernorm", "feed_forward": "gelu", "bias": True}
    model = ModelConfig(dim=32, num_heads=4, num_kv_heads=4, ffn_dim=64, qk_norm="none", **names)
    with pytest.raises(ConfigError, match="rayllm merge"):
        _check_layout(model)
