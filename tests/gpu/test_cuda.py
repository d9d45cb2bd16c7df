"""On a CUDA GPU: every precision, kernel and engine that the machine has computes what float32 with SDPA does."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support import gpu_check
from support.gpu_sides import Bench, Setup

from rayllm.model.config import ModelConfig
from rayllm.train.precision import resolve_precision

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]
MODEL = ModelConfig(dim=256, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=512, max_seq_len=256).with_vocab(512)
BENCH = Bench(torch.device("cuda"), emulate=False, compiles=True)


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of one rank, which the engines want."""
    os.environ["LOCAL_RANK"] = "0"
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def reference() -> gpu_check.Trace:
    """What float32 gives."""
    return gpu_check.trace(MODEL, Setup(), 256, BENCH)


@pytest.mark.parametrize("setup", gpu_check.setups(BENCH), ids=lambda setup: setup.name)
def test_a_setup_computes_what_float32_does(setup: Setup, reference: gpu_check.Trace) -> None:
    if why := gpu_check.obstacle(setup, MODEL, BENCH):
        pytest.skip(why)
    verdict = gpu_check.judge(setup, MODEL, 256, BENCH, reference)
    assert verdict.passed, verdict


def test_auto_takes_bf16_and_never_fp8() -> None:
    capable = torch.cuda.get_device_capability() >= (8, 0)
    assert resolve_precision("auto", 4096, BENCH.device) == ("bf16" if capable else "fp32")


def test_the_benchmark_says_what_it_ran_on(tmp_path: Path) -> None:
    from support.results import describe, keep

    file = keep("check", BENCH.device, [], tmp_path)
    assert torch.cuda.get_device_name() in file.read_text()
    assert describe(BENCH.device)["cuda"]
