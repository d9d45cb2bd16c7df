"""Gauges: what a record sets, that the dashboard shows just these, and that Ray really serves them."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from rayllm.pipelines.train.gauges import GAUGES, GaugeSink, readings

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana" / "rayllm.json"
TRAIN = {"kind": "train", "step": 4, "loss": 2.5, "mfu": None, "stage": 0, "tokens": 100, "tokens/web": 60}


def test_a_record_sets_its_numbers_and_nothing_that_is_missing() -> None:
    assert readings(TRAIN) == [("rayllm_step", "", 4), ("rayllm_train_loss", "", 2.5), ("rayllm_tokens", "", 100)]
    found = readings({"kind": "validation", "step": 4, "loss/web": 3.0, "loss/code": float("nan"), "mean_loss": 1.0})
    assert found == [("rayllm_validation_loss", "web", 3.0)]
    assert readings({"kind": "train", "update_ratio/head": 1e-3}) == [("rayllm_update_ratio", "head", 1e-3)]
    assert readings({"kind": "event", "step": 1, "message": "loss 3"}) == []


def test_the_dashboard_shows_every_gauge_and_nothing_else() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    shown = [
        re.findall(r"ray_(rayllm_\w+)", target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]
    ]
    assert sorted(name for names in shown for name in names) == sorted(name for name, _ in GAUGES.values())


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_ray_serves_the_gauges_on_its_metrics_port() -> None:
    @ray.remote(num_cpus=0)
    class Trainer:
        def train(self) -> None:
            self.sink = GaugeSink("my-run")
            self.sink.write({"kind": "train", "step": 7, "loss": 1.25})

    trainer = Trainer.remote()
    ray.get(trainer.train.remote())  # pyright: ignore
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    end, text = time.monotonic() + 30, ""
    while 'run="my-run"' not in text and time.monotonic() < end:
        time.sleep(0.5)
        text = urllib.request.urlopen(address, timeout=5).read().decode()
    of_this_run = [line for line in text.splitlines() if 'run="my-run"' in line]  # others trained on this cluster too
    (line,) = [line for line in of_this_run if line.startswith("ray_rayllm_train_loss{")]
    assert line.endswith(" 1.25")
