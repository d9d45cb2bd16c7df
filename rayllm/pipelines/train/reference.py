"""What an adaptive mixture is measured against: the validations of another run, or numbers of the config.

In: ``mixture.adaptive``. Out: for each validation domain a curve of bits per byte over tokens, and whose training
domain it speaks for. The content of the reference is in the run's identity, so that another one makes another run.
"""

from collections.abc import Callable, Sequence

from rayllm.core import storage
from rayllm.core.artifact import content_hash
from rayllm.core.checkpoint import train_artifact
from rayllm.core.errors import ConfigError
from rayllm.data.mixing.adaptive import Curve
from rayllm.data.mixing.adaptive_config import AdaptiveConfig
from rayllm.data.mixing.plan import Plan
from rayllm.data.mixing.weights import check_known
from rayllm.report.metrics_log import read_metrics
from rayllm.train.adaptation import Adaptation

_WHERE = "mixture.adaptive"
_BITS = "bits_per_byte/"


def open_adaptation(
    config: AdaptiveConfig, plan: Plan, validation: Sequence[str], turn: Callable[[Plan], None]
) -> Adaptation:
    """Everything that moves the weights of a run.

    Args:
        config: How.
        plan: The table that the run begins or goes on with.
        validation: The validation domains.
        turn: Told each new table.

    Raises:
        ConfigError: If the reference is not there, lacks a domain, or fewer than two training domains could move.
    """
    curves, speaks_for = read_reference(config), speaking(config, plan.domains, validation)
    for name in speaks_for:
        check_known(name, list(curves), f"{_WHERE}.reference")
    return Adaptation(config, {name: curves[name] for name in speaks_for}, speaks_for, plan, turn)


def speaking(config: AdaptiveConfig, training: Sequence[str], validation: Sequence[str]) -> dict[str, str]:
    """The training domain that each validation domain speaks for; those that speak for none are left out.

    Raises:
        ConfigError: If a name is unknown, or fewer than two training domains could move.
    """
    same = {name: name for name in validation if name in training}
    found = same if config.domains is None else config.domains
    for name, domain in found.items():
        check_known(name, validation, f"{_WHERE}.domains")
        check_known(domain, training, f"{_WHERE}.domains.{name}")
    if len(set(found.values())) < 2:
        raise ConfigError(
            "an adaptive mixture needs two training domains that can move against each other",
            where=_WHERE,
            why=f"validation domains are {', '.join(validation)}, training domains {', '.join(training)}",
            fix="say in `mixture.adaptive.domains` which training domain each validation domain speaks for",
        )
    return dict(found)


def read_reference(config: AdaptiveConfig) -> dict[str, Curve]:
    """Bits per byte of each validation domain over tokens.

    Raises:
        ConfigError: If there is no run, or it was never validated.
    """
    if isinstance(config.reference, dict):
        return {name: [(0.0, value)] for name, value in config.reference.items()}
    records = read_metrics(_metrics_file(config.reference)).validation
    names = dict.fromkeys(name for record in records for name in record if name.startswith(_BITS))
    if not names:
        raise ConfigError("the reference run was never validated", where=f"{_WHERE}.reference: {config.reference}")
    return {
        name.removeprefix(_BITS): [
            (float(record["tokens"]), float(record[name])) for record in records if name in record
        ]
        for name in names
    }


def _metrics_file(uri: str) -> str:
    if uri.endswith(".jsonl") and storage.exists(uri):
        return uri
    where = storage.join(train_artifact(uri), "metrics.jsonl")
    if storage.exists(where):
        return where
    raise ConfigError(
        "there is no run to measure against",
        where=f"{_WHERE}.reference: {uri}",
        why=f"{where} is missing",
        fix="give the directory of a run that has been trained, its train artifact, or its metrics.jsonl",
    )


def reference_fingerprint(config: AdaptiveConfig) -> str:
    """What is there now, so that another reference at the same place makes another run."""
    return content_hash(read_reference(config))
