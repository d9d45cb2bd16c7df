"""Parts of a reference: who computes them, and what is kept of them between starts."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from without_ray import score_here, stages_without_ray, trained_base

from rayllm.core import storage
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines import reference
from rayllm.pipelines.reference import Part, PartTask, finished_parts, plan_parts, read_part, score_parts, write_part
from rayllm.pipelines.run_config import RunConfig, stage_config
from rayllm.pipelines.runner import run_stages


def test_a_part_of_an_older_version_is_made_again(tmp_path: Path) -> None:
    task = PartTask(split="train", domain="a", first=0, stop=2, file=str(tmp_path / "00000000.safetensors"))
    part = Part(np.arange(2), np.full((2, 2), -1.5), "bf16")
    assert read_part(task) is None
    storage.write_bytes(task.file, save({"numbers": part.numbers, "values": part.values}))
    assert read_part(task) is None, "it does not say in what the model computed"
    write_part(task, part)
    found = read_part(task)
    assert found is not None
    assert found.precision == "bf16"
    assert (found.values == part.values).all()


def run_over_pairs(root: Path, count: int) -> RunConfig:
    """A run that compares replies, over so many pairs and a model that has trained a few steps."""
    pairs = [{"prompt": f"How is {n}?", "chosen": f"It is fine, {n}.", "rejected": f"GO {n}!"} for n in range(count)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    base = trained_base(root / "base")
    model = {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 64, "max_seq_len": 256}
    train = {
        "objective": {"kind": "dpo"},
        "init": f"from_checkpoint:{base}",
        "seq_len": 128,
        "global_batch_tokens": 128,
        "max_steps": 2,
        "packing": "best_fit",
        "precision": "fp32",
    }
    return RunConfig.model_validate(
        {
            "name": "dpo",
            "storage": str(root / "runs"),
            "sources": {"sums": {"kind": "preferences", "path": str(root / "pairs.jsonl")}},
            "validation": {"heldout_frac": 0.1},
            "fit_tokenizer": {"kind": "adopt", "from_file": str(base)},
            "pack": {"chat": {"max_tokens": 128}},
            "model": model,
            "train": train,
        }
    )


@pytest.mark.ray
def test_actors_give_the_numbers_that_one_process_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    monkeypatch.setattr(reference, "PART_TOKENS", 128)
    run = run_over_pairs(tmp_path, 24)
    with stages_without_ray():
        packed_uri = run_stages(run, ["prepare", "fit_tokenizer", "pack"])["pack"].uri
    config, packed = stage_config("reference", run), PackedData.open(packed_uri)
    assert isinstance(config, reference.Config)
    domains = [("train", "sums"), ("validation", "sums")]
    here, there = (plan_parts(packed, domains, 128, str(tmp_path / name)) for name in ("here", "there"))
    assert len(there) > 2, "each of two actors scores some"
    precisions = list(score_parts(there, packed_uri, config))
    assert precisions == list(score_here(here, packed_uri, config)) == ["fp32"] * len(there)
    for one, other in zip(finished_parts(here), finished_parts(there), strict=True):
        np.testing.assert_array_equal(one.numbers, other.numbers)
        np.testing.assert_allclose(one.values, other.values, rtol=1e-6)
        assert (one.values < 0).all()
