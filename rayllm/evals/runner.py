"""A checkpoint and packed data to scores: before and after, against a bigram, for every validation domain.

In: a model, packed tokens, and the validation record that training wrote before its first step. Out: the content of
``scores.json``, plain JSON values.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rayllm.core.log import get_logger
from rayllm.data.batches import Batch, validation_batches
from rayllm.data.preferences import PairRows, chosen_only
from rayllm.data.shards.packed import PackedData
from rayllm.evals.config import EvaluateConfig
from rayllm.evals.ngram import fit_bigram, sample_tokens, score_bigram
from rayllm.evals.samples import identification, write_samples
from rayllm.evals.scoring import DomainScore, mean_bits_per_byte, metrics, score_batches
from rayllm.inference.loading import Loaded

logger = get_logger(__name__)

#: The quantities of a domain that a validation record holds.
MEASURES = ("loss", "perplexity", "bits_per_byte", "surprise_ratio")


@dataclass(frozen=True)
class Conditions:
    """How training read its rows; evaluation does the same.

    Attributes:
        seq_len: Tokens of a row.
        document_mask: Whether attention stays within a document.
        max_tokens: Validation tokens of each domain, at most.
        seed: Of the samples.
    """

    seq_len: int
    document_mask: bool
    max_tokens: int
    seed: int


def evaluate(
    loaded: Loaded, packed: PackedData, conditions: Conditions, config: EvaluateConfig, before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Measure a model.

    Args:
        loaded: The checkpoint.
        packed: Validation text to score and to prompt with, training text for the baseline.
        conditions: How rows are read.
        config: What is measured.
        before: The validation record of the untrained model, where there is one.

    Returns:
        The content of ``scores.json``.

    Raises:
        ArtifactDamaged: If the data was packed with another tokenizer than the model's.
    """
    packed.check_tokenizer(loaded.codec.sha256)
    scores = score_domains(loaded, packed, conditions, config)
    domains = by_domain(metrics(scores), scores)
    for domain, score in scores.items():
        baseline = bigram_baseline(packed, domain, conditions, config)
        domains[domain] |= {"tokens": score.tokens, "bytes": score.bytes, "bigram_bits_per_byte": baseline}
        logger.info("%s: %.3f bits per byte (bigram %.3f)", domain, score.bits_per_byte, baseline)
    samples = write_samples(loaded, packed, config.samples, conditions.seed)
    return {
        "checkpoint": loaded.uri,
        "step": loaded.state["step"],
        "domains": domains,
        "before": by_domain(before, scores) if before else {},
        "identification": identification(samples),
        "samples": [sample.record() for sample in samples],
        "mean_bits_per_byte": mean_bits_per_byte(scores),
    }


def score_domains(
    loaded: Loaded, packed: PackedData, conditions: Conditions, config: EvaluateConfig
) -> dict[str, DomainScore]:
    """Score the model on every validation domain."""
    device = next(loaded.model.parameters()).device
    token_bytes = torch.from_numpy(packed.codec().token_bytes).to(device)

    def token_losses(batch: Batch) -> torch.Tensor:
        return loaded.model(batch.input_ids, batch.labels, batch.doc_ids if conditions.document_mask else None)

    scores = {}
    for domain in packed.domains("validation"):
        batches = (batch.to(device) for batch in _batches(packed, domain, conditions, config))
        scores[domain] = score_batches(token_losses, batches, token_bytes)
    return scores


def _batches(packed: PackedData, domain: str, conditions: Conditions, config: EvaluateConfig) -> Iterator[Batch]:
    """What a domain is scored on; of pairs of replies, those that were preferred."""
    if domain in packed.pair_domains("validation"):
        rows = PairRows.open(packed, "validation", domain, conditions.seq_len)
        return (chosen_only(batch) for batch in rows.batches(config.rows_per_batch, conditions.max_tokens))
    return validation_batches(
        packed.stream("validation", domain),
        seq_len=conditions.seq_len,
        rows_per_batch=config.rows_per_batch,
        separator_id=packed.separator_id,
        max_tokens=conditions.max_tokens,
    )


def bigram_baseline(packed: PackedData, domain: str, conditions: Conditions, config: EvaluateConfig) -> float:
    """Bits per byte of a bigram of the domain's training text, on the validation tokens that the model is scored on."""
    bigram = fit_bigram(sample_tokens(packed.stream("train", domain), config.baseline_tokens), packed.vocab_size)
    batches = _batches(packed, domain, conditions, config)
    return score_bigram(bigram, batches, torch.from_numpy(packed.codec().token_bytes)).bits_per_byte


def by_domain(record: Mapping[str, Any], domains: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """A flat validation record as a table: domain, then measure."""
    return {domain: {measure: record[f"{measure}/{domain}"] for measure in MEASURES} for domain in domains}
