"""What a run computes in, chosen once and frozen: a name is obeyed or refused, ``auto`` takes the fastest honest one.

Master weights, optimiser state, norms, softmax and losses are float32 in every precision; what changes are the matrix
products, by autocast (fp16 with a scaled loss, ``train.loss_scale``; fp8 inside the blocks, ``train.fp8``).
"""

import torch

from rayllm.core.cpu import multiplies_bf16
from rayllm.core.errors import SetupError
from rayllm.train.config import Fp8Config, Precision
from rayllm.train.fp8 import check_capability, check_hardware

#: bf16 pays from this width up on a CPU that multiplies it (1.3 times the speed at 128, up to twice at 384); below,
#: casts cost as much.
CPU_BF16_MIN_DIM = 128
#: Compute capability from which GPUs have bf16.
BF16_CAPABILITY = (8, 0)
#: What autocast computes matrix products in; other precisions run without it.
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}


def resolve_precision(asked: str, dim: int, device: torch.device, fp8: Fp8Config | None = None) -> Precision:
    """The precision to compute in.

    Args:
        asked: ``auto`` or a name.
        dim: Width of the model.
        device: Where it trains.
        fp8: Settings of fp8.

    Raises:
        SetupError: If the device cannot compute in the precision asked for.
    """
    if asked == "fp8":
        check_hardware(fp8 or Fp8Config(), device)
        return "fp8"
    if device.type == "cuda":
        return resolve_on_gpu(asked, torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    if asked == "fp32" or asked == "fp16" or asked == "bf16":
        return asked
    return "bf16" if multiplies_bf16() and dim >= CPU_BF16_MIN_DIM else "fp32"


def resolve_on_gpu(asked: str, name: str, capability: tuple[int, int], fp8: Fp8Config | None = None) -> Precision:
    """The precision that a GPU computes in, by what it is: it need not be here.

    Args:
        asked: ``auto`` or a name.
        name: Of the GPU, for errors.
        capability: Its compute capability.
        fp8: Settings of fp8.

    Raises:
        SetupError: If it cannot compute in the precision asked for.
    """
    if asked == "fp8":
        check_capability(fp8 or Fp8Config(), name, capability)
        return "fp8"
    if asked == "fp32" or asked == "fp16":
        return asked
    capable = capability >= BF16_CAPABILITY
    if asked == "bf16" and not capable:
        raise SetupError(
            "this GPU has no bf16",
            where="train.precision=bf16",
            why=f"{name} has compute capability {capability[0]}.{capability[1]}, and it needs 8.0",
            fix="set train.precision=fp16 (with a scaled loss) or train.precision=fp32",
        )
    return "bf16" if capable else "fp32"
