"""Pairs of replies as training reads them: rows of whole pairs, and what the reference model says of each.

In: packed pairs, and the ``reference`` artifact. Out: batches that carry the log-probabilities of the reference, and
validation rows of whole pairs. A row holds the halves of its pairs one after the other, chosen, rejected, chosen, …;
since each half begins with a separator, ``Batch.doc_ids`` numbers them.

**Reference artifact**: ``reference.json`` (``ReferenceIndex``), and for each split and domain ``<split>/<domain>.f64``:
little-endian float64, for every pair of the stream the log-probabilities of the chosen and the rejected reply, in nats.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from pydantic import BaseModel, ConfigDict, ValidationError

from rayllm.core import storage
from rayllm.core.artifact import content_hash
from rayllm.core.errors import ArtifactDamaged, DataError
from rayllm.data.batches import PADDING_ROW, Batch, make_batch, rank_rows, with_reference
from rayllm.data.packing.row_index import open_rows
from rayllm.data.packing.rows import Rows, Segment, read_segments
from rayllm.data.shards.packed import PackedData
from rayllm.data.shards.stream import TokenStream
from rayllm.model.config import IGNORE_INDEX

REFERENCE_JSON = "reference.json"
DTYPE = np.dtype("<f8")
SPLITS = ("train", "validation")


class ReferenceIndex(BaseModel):
    """The content of ``reference.json``.

    Attributes:
        precision: In what the model computed; see ``check_precision``.
        pairs: By split and domain the ``pairs_hash`` of the stream.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    precision: str
    pairs: dict[str, dict[str, str]]


def values_file(split: str, domain: str) -> str:
    """Name of the file that holds the values of a domain, below the artifact."""
    return f"{split}/{domain}.f64"


def pairs_hash(stream: TokenStream) -> str:
    """Hash of the pairs of a stream: of their tokens, bounds and masks."""
    return content_hash({"shards": [[r.tokens_sha256, r.bounds_sha256, r.mask_sha256] for r in stream.records]})


@dataclass(frozen=True, eq=False)
class PairScores:
    """What the reference model says of every pair of a stream.

    Attributes:
        starts: Each pair's first token in the stream, ascending.
        log_probs: Of the chosen and the rejected reply, in nats.
    """

    starts: Int64[np.ndarray, " pairs"]
    log_probs: Float64[np.ndarray, "pairs 2"]

    def of_row(self, segments: Sequence[Segment]) -> Float64[np.ndarray, " halves"]:
        """The log-probabilities of a row's halves, in its order."""
        return self.log_probs[self.numbers(segments)].reshape(-1)

    def numbers(self, segments: Sequence[Segment]) -> Int64[np.ndarray, " pairs"]:
        """The numbers of a row's pairs in the stream."""
        return pair_numbers(self.starts, segments)


def pair_numbers(
    starts: Int64[np.ndarray, " pairs"], segments: Sequence[Segment]
) -> Int64[np.ndarray, " pairs_of_row"]:
    """The numbers of a row's pairs in the stream; every segment is one whole pair."""
    return np.searchsorted(starts, [segment.start for segment in segments])


def open_scores(uri: str, packed: PackedData, split: str, domain: str) -> PairScores:
    """Read what the reference says of a domain.

    Raises:
        ArtifactDamaged: If the artifact is not whole.
        DataError: If it was made from other pairs.
    """
    stream = packed.stream(split, domain)
    if _read_index(uri).pairs.get(split, {}).get(domain) != pairs_hash(stream):
        raise DataError(
            "the reference's log-probabilities are those of other pairs",
            where=storage.join(uri, values_file(split, domain)),
            why=f"they were not made from the pairs in {packed.uri}",
            fix="make them from these: rayllm reference FILE",
        )
    values = np.frombuffer(storage.read_bytes(storage.join(uri, values_file(split, domain))), DTYPE).reshape(-1, 2)
    if len(values) != stream.num_documents or not np.isfinite(values).all():
        raise ArtifactDamaged(
            "the reference's log-probabilities are not whole",
            where=storage.join(uri, values_file(split, domain)),
            why=f"{len(values):,} pairs there, {stream.num_documents:,} packed; every value must be finite",
            fix="make them again: rayllm reference FILE --force",
        )
    return PairScores(stream.document_starts(), values)


def check_precision(uri: str, precision: str) -> None:
    """Refuse a reference that was computed in another precision than the policy is: they would differ at once.

    Raises:
        DataError: Naming both.
    """
    found = _read_index(uri).precision
    if found != precision:
        raise DataError(
            "the reference's log-probabilities were computed in another precision than the run's",
            where=storage.join(uri, REFERENCE_JSON),
            why=f"the reference in {found}, the run in {precision}: before its first step it would prefer by rounding",
            fix=f"set train.precision={precision}, or make the reference where the run is trained: "
            "rayllm reference FILE --force",
        )


def _read_index(uri: str) -> ReferenceIndex:
    where = storage.join(uri, REFERENCE_JSON)
    try:
        return ReferenceIndex.model_validate_json(storage.read_bytes(where))
    except FileNotFoundError as error:
        raise ArtifactDamaged("this is no reference", where=uri, why=f"{REFERENCE_JSON} is missing") from error
    except ValidationError as error:
        raise ArtifactDamaged("the index of a reference cannot be read", where=where, why=str(error)) from error


def check_pairs(packed: PackedData) -> None:
    """Refuse to compare replies where some documents are no pairs.

    Raises:
        DataError: Naming the domains.
    """
    every = {f"{split}/{domain}" for split in SPLITS for domain in packed.domains(split)}
    if others := sorted(every.difference(_pair_domains(packed))):
        raise DataError(
            "`train.objective: {kind: dpo}` compares replies, and some domains hold other documents",
            where=f"{packed.uri}: {', '.join(others)}",
            fix="give every domain of `sources` and `validation.sources` sources of kind preferences or "
            "synthetic_preferences only",
        )


def check_no_pairs(packed: PackedData) -> None:
    """Refuse to learn both replies of pairs alike, and to measure them alike.

    Raises:
        DataError: Naming the domains.
    """
    if pairs := _pair_domains(packed):
        raise DataError(
            "some domains hold pairs of replies, and only one of each is to be preferred",
            where=f"{packed.uri}: {', '.join(pairs)}",
            fix="set `train.objective: {kind: dpo}`",
        )


def _pair_domains(packed: PackedData) -> list[str]:
    return [f"{split}/{domain}" for split in SPLITS for domain in packed.pair_domains(split)]


@dataclass(frozen=True, eq=False)
class PairRows:
    """The rows of one length over a domain of pairs, with what the reference says of them where it is known."""

    stream: TokenStream
    rows: Rows
    seq_len: int
    separator_id: int
    scores: PairScores | None = None

    @classmethod
    def open(
        cls, packed: PackedData, split: str, domain: str, seq_len: int, scores: PairScores | None = None
    ) -> "PairRows":
        """The best-fit rows of a domain: no pair is cut."""
        rows = open_rows(packed, split, domain, seq_len, "best_fit")
        return cls(packed.stream(split, domain), rows, seq_len, packed.separator_id, scores)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Some rows, or ``PADDING_ROW``."""
        segments = [self.rows.segments(number) if number != PADDING_ROW else [] for number in numbers]
        pieces = [read_segments(self.stream, row) for row in segments]
        batch = make_batch(pieces, [0] * len(pieces), self.seq_len, self.separator_id)
        return batch if self.scores is None else with_reference(batch, [self.scores.of_row(row) for row in segments])

    def batches(
        self, rows_per_batch: int, max_tokens: int | None = None, world_size: int = 1, rank: int = 0
    ) -> Iterator[Batch]:
        """A rank's part of the first rows, at least one of them; every rank gets as many batches.

        Args:
            rows_per_batch: Rows of a batch.
            max_tokens: Positions of all rows of all ranks together, at most; all rows if None.
            world_size: Number of ranks.
            rank: Whose part.
        """
        count = self.rows.num_rows if max_tokens is None else max(1, max_tokens // self.seq_len)
        mine = rank_rows(min(count, self.rows.num_rows), world_size, rank)
        for first in range(0, len(mine), rows_per_batch):
            yield self.batch(mine[first : first + rows_per_batch])


def halves(batch: Batch, count: int) -> Bool[torch.Tensor, "rows halves seq"]:
    """Which positions of each row belong to which half.

    Args:
        batch: Rows of pairs.
        count: Halves of the fullest row.
    """
    numbers = torch.arange(1, count + 1, device=batch.doc_ids.device)
    return batch.doc_ids[:, None, :] == numbers[None, :, None]


def reply_log_probs(
    token_losses: Float[torch.Tensor, "rows seq"], batch: Batch, count: int
) -> Float64[torch.Tensor, "rows halves"]:
    """Log-probability of the reply of each half, in nats: the sum over its supervised tokens.

    Args:
        token_losses: Of the batch; 0 where the label is ignored.
        batch: Rows of pairs.
        count: Halves of the fullest row; halves that a row does not have get 0.
    """
    return -(halves(batch, count) * token_losses.double()[:, None, :]).sum(dim=-1)


def chosen_only(batch: Batch) -> Batch:
    """The same rows with the labels of the replies that were preferred only."""
    rejected = batch.doc_ids % 2 == 0
    return dataclasses.replace(batch, labels=batch.labels.masked_fill(rejected, IGNORE_INDEX))
