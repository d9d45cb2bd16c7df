"""The run file that a sweep leaves behind, as its user takes it up."""

from pathlib import Path

import pytest
import yaml
from small_session import records
from tiny_run import write_run
from without_ray import stages_without_ray

from rayllm.cli import main
from rayllm.core.artifact import read_artifact
from rayllm.pipelines import ray_runtime
from rayllm.pipelines.run_config import load_run
from rayllm.pipelines.runner import run_stages, verbs_for

RATES = {"kind": "choice", "values": [1e-3, 2e-3]}
SWEEP = {
    "space": {"mixture.weights": {"kind": "simplex", "floor": 0.2}, "train.optimizer.lr": RATES},
    "baselines": ["uniform"],
    "budget": {"trials": 2},
    "significance": {"leaders": 0},
    "max_steps": 2,
}


@pytest.mark.ray
def test_what_a_sweep_found_best_trains_with_the_same_data_and_its_own_steps(tmp_path, ray_session, monkeypatch):
    monkeypatch.setattr(ray_runtime, "shutdown", lambda: None)  # the session's Ray is to stay for the other tests
    file = write_run(tmp_path, str(tmp_path / "runs"), max_steps=4)
    file.write_text(file.read_text() + yaml.safe_dump({"tune": SWEEP}))
    with stages_without_ray():
        run_stages(load_run(str(file), []), verbs_for("pack"))
    assert main(["tune", str(file)]) == 0
    [best] = tmp_path.glob("runs/*/tune-*/best.yaml")
    made = set(tmp_path.glob("runs/*/pack-*"))
    assert main(["train", str(best)]) == 0
    assert set(tmp_path.glob("runs/*/pack-*")) == made  # nothing was tokenised again
    [trained] = tmp_path.glob("runs/tiny-best/train-*")
    config = read_artifact(str(trained)).manifest.config
    found = yaml.safe_load(Path(best).read_text())
    assert config["train"]["optimizer"]["lr"] == found["train"]["optimizer"]["lr"]
    assert config["mixture"]["weights"] == found["mixture"]["weights"]
    assert list(records(str(trained), "train")) == [1, 2, 3, 4]
