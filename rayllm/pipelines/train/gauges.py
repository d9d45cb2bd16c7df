"""The run's metrics as Prometheus gauges, exported by Ray beside its own.

In: the records of rank 0. Out: gauges ``rayllm_…`` with the run as a tag, and the domain where there is one. Ray serves
them on every node's metrics port with ``ray_`` before the name; ``cluster/grafana/rayllm.json`` shows them.
"""

import math
from collections.abc import Mapping

from ray.util.metrics import Gauge

from rayllm.core.log import Value

#: Gauge by the record's kind and field; a field with a domain, or a group of parameters, is ``field/domain``.
GAUGES: dict[tuple[str, str], tuple[str, str]] = {
    ("train", "loss"): ("rayllm_train_loss", "Training loss of the last logged step, nats per token."),
    ("train", "lr"): ("rayllm_learning_rate", "Learning rate of the last logged step."),
    ("train", "grad_norm"): ("rayllm_grad_norm", "Norm of the gradient before clipping."),
    ("train", "update_ratio"): ("rayllm_update_ratio", "Norm of a step's change over that of the weights, by group."),
    ("train", "tokens_per_s"): ("rayllm_tokens_per_second", "Supervised tokens per second, all workers together."),
    ("train", "step_s"): ("rayllm_step_seconds", "Seconds of an optimizer step."),
    ("train", "mfu"): ("rayllm_mfu", "Share of the hardware's peak FLOP/s."),
    ("train", "memory_bytes"): ("rayllm_memory_bytes", "Peak memory of rank 0, in bytes."),
    ("train", "step"): ("rayllm_step", "Optimizer steps taken."),
    ("train", "tokens"): ("rayllm_tokens", "Supervised tokens so far."),
    ("validation", "loss"): ("rayllm_validation_loss", "Validation loss by domain, nats per token."),
    ("validation", "bits_per_byte"): ("rayllm_validation_bits_per_byte", "Validation bits per byte by domain."),
    ("validation", "mean_bits_per_byte"): ("rayllm_validation_mean_bits_per_byte", "Mean over the domains."),
}

#: What the part after the slash is, by gauge; of others it is a domain.
TAGS = {"rayllm_update_ratio": "group"}


def readings(record: Mapping[str, Value]) -> list[tuple[str, str, float]]:
    """What a record sets: (gauge, what follows the slash, value); what is missing or not finite sets nothing."""
    found = []
    for field, value in record.items():
        name, _, domain = field.partition("/")
        gauge = GAUGES.get((str(record["kind"]), name))
        if gauge is None or isinstance(value, str | bool | None) or (domain and name == "tokens"):
            continue
        if math.isfinite(value):
            found.append((gauge[0], domain, float(value)))
    return found


class GaugeSink:
    """Sets Ray's gauges; they exist once in a process.

    Args:
        run: Name of the run.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges = {
            name: Gauge(name, description=text, tag_keys=("run", _tag(name))) for name, text in GAUGES.values()
        }

    def write(self, record: Mapping[str, Value]) -> None:
        """Set what the record holds."""
        for name, part, value in readings(record):
            self._gauges[name].set(value, tags={"run": self._run, _tag(name): part})

    def close(self) -> None:
        """Gauges keep their last value until the worker ends."""


def _tag(gauge: str) -> str:
    return TAGS.get(gauge, "domain")
