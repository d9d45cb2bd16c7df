"""What a session that compares replies needs beside its data: the reference's log-probabilities, held-out pairs.

In: the ``reference`` artifact and packed pairs. Out: what the reader puts into training batches, and the metrics of
held-out pairs: all ranks measure a share.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from rayllm.core.errors import ConfigError
from rayllm.data.preferences import (
    PairRows,
    PairScores,
    check_no_pairs,
    check_pairs,
    check_precision,
    chosen_only,
    open_scores,
)
from rayllm.data.shards.packed import PackedData
from rayllm.evals.scoring import DomainScore, score_batches
from rayllm.train import collective
from rayllm.train.config import TrainConfig
from rayllm.train.engine import Engine
from rayllm.train.objective_config import PREFERENCE_MEASURES, DpoConfig
from rayllm.train.preferences import DirectPreference


@dataclass(frozen=True)
class Comparing:
    """The reference of a run, and its held-out pairs.

    Attributes:
        objective: Of the run.
        train: What the reference says of each training domain's pairs, in the order of the domains.
        validation: The rows of held-out pairs by domain.
    """

    objective: DirectPreference
    train: list[PairScores]
    validation: dict[str, PairRows]

    def score(
        self, domain: str, engine: Engine, config: TrainConfig, token_bytes: Int[Tensor, " vocab"]
    ) -> tuple[DomainScore, Float64[Tensor, " 2+measures"]]:
        """Measure held-out pairs with the current weights; all ranks call it together.

        Returns:
            The score of the replies that were preferred, as for all text; and sums over the pairs: their number, their
            loss, then ``PREFERENCE_MEASURES``.
        """
        score, sums = DomainScore(), torch.zeros(2 + len(PREFERENCE_MEASURES), dtype=torch.float64)
        rows = self.validation[domain]
        limit = config.validation.max_tokens
        with torch.no_grad():
            for prepared in rows.batches(config.micro_batch_rows, limit, engine.world_size, engine.rank):
                batch = prepared.to(engine.device)
                losses = engine.token_losses(batch)
                score += score_batches(lambda _, found=losses: found, [chosen_only(batch)], token_bytes)
                counted = self.objective.count(batch).sum()
                sums += torch.cat([counted[None], self.objective.sums(losses, batch)]).cpu()
        return DomainScore.from_tensor(collective.sum_over_ranks(score.to_tensor())), collective.sum_over_ranks(sums)


def open_comparing(config: TrainConfig, packed: PackedData, reference_uri: str, precision: str) -> Comparing | None:
    """Open what a run compares with; None where its objective compares nothing.

    Args:
        config: Settings of training.
        packed: Its data.
        reference_uri: The reference artifact; empty where there is none.
        precision: In what the run computes.

    Raises:
        ConfigError: If the objective needs a reference and there is none.
        DataError: If the data does not fit the objective, or the reference is that of other pairs, or was computed in
            another precision.
    """
    if not isinstance(config.objective, DpoConfig):
        check_no_pairs(packed)
        return None
    check_pairs(packed)
    if not reference_uri:
        raise ConfigError(
            "replies are compared with a reference, and none was given",
            where="train.objective: {kind: dpo}",
            fix="run the stage `reference` first; `rayllm run` and `rayllm train` do",
        )
    check_precision(reference_uri, precision)
    train = [open_scores(reference_uri, packed, "train", domain) for domain in packed.domains("train")]
    validation = {
        domain: PairRows.open(
            packed, "validation", domain, config.seq_len, open_scores(reference_uri, packed, "validation", domain)
        )
        for domain in packed.domains("validation")
    }
    return Comparing(DirectPreference(config.objective), train, validation)
