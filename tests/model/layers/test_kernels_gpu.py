"""The real kernels on a GPU give what SDPA gives, forward and backward; skipped where there is no CUDA."""

from typing import Any

import pytest
import torch

from rayllm.model.config import ModelConfig
from rayllm.model.layers.kernels import KERNELS, choose_kernel
from rayllm.model.transformer import Transformer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]

MODELS: dict[str, dict[str, Any]] = {
    "causal": {},
    "windows": {"window": 40, "global_every": 2},
    "alibi": {"positions": {"kind": "alibi"}},
}


@pytest.mark.parametrize("name", ["flex", "varlen", "flash"])
@pytest.mark.parametrize("model_name", MODELS)
def test_losses_and_gradients_are_those_of_sdpa(name: str, model_name: str) -> None:
    device = torch.device("cuda")
    config = ModelConfig.model_validate(
        {"vocab_size": 256, "dim": 128, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 256}
        | {"max_seq_len": 256, "exportable": False, **MODELS[model_name]}
    )
    choice = choose_kernel("auto", device, config, half=True, document_mask=True)
    if name != choice.name and f"{name}: " in choice.why:
        pytest.skip(choice.why)
    model = Transformer(config)
    model.init_weights(1)
    model.to(device)
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(1, 256, (3, 256), generator=generator).to(device)
    doc_ids = (torch.rand(3, 256, generator=generator) < 0.02).cumsum(1).to(device)
    found = []
    for kernel in ("sdpa", name):
        model.set_attention_kernel(KERNELS[kernel])
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            losses = model(tokens, tokens.roll(-1, 1), doc_ids)
        losses.mean().backward()
        found.append((losses.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (expected, expected_grads), (losses, grads) = found
    torch.testing.assert_close(losses, expected, rtol=2e-2, atol=2e-2)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert float((grad - expected_grad).norm() / expected_grad.norm()) < 0.05
