"""The plan of a run, from its config and the sizes of its domains; needs neither torch nor ray."""

from collections.abc import Mapping

from rayllm.data.curriculum import build_plan
from rayllm.data.plan import Plan
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.pipelines.train import Config


def plan_run(config: Config, domain_tokens: Mapping[str, int], model: ModelConfig) -> Plan:
    """The stage table of a run.

    Args:
        config: The run.
        domain_tokens: Training tokens of each domain.
        model: Its model with the tokenizer's vocabulary, which ``train.tokens_per_param`` counts; other budgets do not
            look at it.

    Raises:
        ConfigError: If the settings do not fit together.
        DataError: If a domain is too small.
    """
    train = config.train
    return build_plan(
        mixture=config.mixture,
        curriculum=config.curriculum,
        seq_len=train.seq_len,
        global_batch_tokens=train.global_batch_tokens,
        domain_tokens=domain_tokens,
        seed=config.seed,
        max_steps=train.max_steps,
        total_tokens=train.total_tokens(count_parameters(model).total) if train.tokens_per_param else train.tokens,
    )
