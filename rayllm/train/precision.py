"""``precision: auto``: the fastest that is honest on this hardware, chosen once and frozen."""

import torch

from rayllm.core.cpu import has_amx
from rayllm.core.errors import SetupError
from rayllm.train.config import Precision

#: bf16 on a CPU with AMX pays from this width up (1.8 times the speed at 256); below, casts cost what products save.
AMX_MIN_DIM = 256


def resolve_precision(asked: str, dim: int, device: torch.device) -> Precision:
    """The precision to compute in.

    Args:
        asked: ``auto`` or a name; a name is obeyed or refused, never replaced.
        dim: Width of the model.
        device: Where it trains.

    Raises:
        SetupError: If the device cannot compute in the precision asked for.
    """
    if asked == "fp32":
        return "fp32"
    if device.type == "cuda":
        capable = torch.cuda.get_device_capability(device) >= (8, 0)
        if asked == "bf16" and not capable:
            raise SetupError(
                "this GPU has no bf16",
                where="train.precision=bf16",
                why=f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0",
                fix="set train.precision=fp32",
            )
        return "bf16" if capable else "fp32"
    if asked == "bf16":
        return "bf16"
    return "bf16" if has_amx() and dim >= AMX_MIN_DIM else "fp32"
