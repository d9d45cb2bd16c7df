import pytest
import torch
import torch.nn.functional as F

from rayllm.model.layers.norms import RMSNorm, cpu_rms_norm


def test_by_hand() -> None:
    norm = RMSNorm(2, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(norm(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 40.0]]) / 12.5**0.5)


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 4, 8)])
def test_the_cpu_version_and_its_gradients_equal_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight, grad = torch.randn(shape).requires_grad_(), torch.randn(8).requires_grad_(), torch.randn(shape)
    expected = F.rms_norm(x, (8,), weight, 1e-3)
    found = cpu_rms_norm(x, weight, 1e-3)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, weight), grad), torch.autograd.grad(expected, (x, weight), grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_is_that_of_the_function() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 2, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: cpu_rms_norm(a, b, 0.1), (x.requires_grad_(), weight.requires_grad_()))


def test_half_precision_is_normalised_in_float32_also_under_autocast() -> None:
    torch.manual_seed(0)
    x = (torch.randn(4, 64) * 100).to(torch.bfloat16).requires_grad_()
    norm = RMSNorm(64, eps=1e-6)
    expected = F.rms_norm(x.float(), (64,), norm.weight, 1e-6).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(x)
        (x_grad, weight_grad) = torch.autograd.grad(found.float().square().sum(), (x, norm.weight))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    assert weight_grad.dtype == torch.float32
    assert torch.isfinite(x_grad).all()


def test_zeros_stay_zeros_and_send_finite_gradients() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    out = RMSNorm(8, eps=1e-6)(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert not out.any()
    assert torch.isfinite(grad).all()
