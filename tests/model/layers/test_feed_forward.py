import torch
import torch.nn.functional as F

from rayllm.model.layers.feed_forward import relu_squared


def test_squared_relu_and_its_gradient_equal_autograds() -> None:
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    assert torch.equal(relu_squared(x), F.relu(x).square())
    assert torch.autograd.gradcheck(relu_squared, (x,))


def test_squared_relu_in_bf16_has_the_bits_of_autograds() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    grad = torch.randn(64, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    (ours,), (theirs,) = (torch.autograd.grad(y, x, grad) for y in (relu_squared(x), F.relu(x).square()))
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs)
