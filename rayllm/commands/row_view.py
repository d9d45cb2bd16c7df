"""Rows of tokens traced to their documents, and shown.

In: rows as the reader gives them. Out: ``Row``, with the documents in it and where these lie in the corpus; and
``RowView``, which prints it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from rich.console import Console
from rich.text import Text

from rayllm.commands.token_view import Look, document_bar, folded, letter, mask_picture, styled_tokens, token_texts
from rayllm.core import storage
from rayllm.data.batches import Batch, Place
from rayllm.data.provenance import Documents, Passage
from rayllm.data.shards.stream import TokenStream
from rayllm.pipelines.corpus_shards import read_origins
from rayllm.tokenizer.codec import Codec

LABEL_WIDTH = 8
MASK_CELLS = 12


@dataclass(frozen=True, eq=False)
class Row:
    """One row and where it comes from.

    Attributes:
        place: Where the reader took it from.
        passages: The parts of documents in it.
        origins: Of each passage the ``id`` and ``source`` of its document in the corpus.
        batch: The row as the model gets it, alone in a batch.
        learnt: Of each of its tokens, whether it counts where it is a label.
    """

    place: Place
    passages: list[Passage]
    origins: list[dict[str, str]]
    batch: Batch
    learnt: Bool[np.ndarray, " tokens"]


def trace(
    streams: Mapping[int, TokenStream], corpus: str, places: Sequence[Place], batches: Sequence[Batch]
) -> list[Row]:
    """Find the documents of rows.

    Args:
        streams: The tokens of every domain that a place names.
        corpus: URI of the corpus artifact that they were made from.
        places: Where the rows come from.
        batches: Each row alone in a batch.
    """
    documents = {domain: Documents(stream) for domain, stream in streams.items()}
    passages = [documents[place.domain].passages(place.segments) for place in places]
    origins = _origins(corpus, [passage for found in passages for passage in found])
    return [
        Row(
            place=place,
            passages=found,
            origins=[origins[passage.shard, passage.shard_row] for passage in found],
            batch=batch,
            learnt=np.concatenate([streams[place.domain].read_mask(*segment) for segment in place.segments]),
        )
        for place, found, batch in zip(places, passages, batches, strict=True)
    ]


def _origins(corpus: str, passages: Sequence[Passage]) -> dict[tuple[str, int], dict[str, str]]:
    rows: dict[str, set[int]] = {}
    for passage in passages:
        rows.setdefault(passage.shard, set()).add(passage.shard_row)
    return {
        (shard, row): origin
        for shard, wanted in rows.items()
        for row, origin in read_origins(storage.join(corpus, f"{shard}.parquet"), wanted).items()
    }


class RowView:
    """Prints rows.

    Args:
        codec: Makes text of tokens.
        width: Columns; the terminal's if None.
        lines_per_passage: Lines of text of each passage at most; all if None.
        with_mask: Draw the attention mask too.
        pairs: Documents are pairs of replies: show their halves apart.
    """

    def __init__(
        self,
        codec: Codec,
        width: int | None = None,
        lines_per_passage: int | None = None,
        *,
        with_mask: bool = False,
        pairs: bool = False,
    ) -> None:
        self._codec, self._lines, self._with_mask, self._pairs = codec, lines_per_passage, with_mask, pairs
        self._console = Console(highlight=False, soft_wrap=True)
        self._look = Look.of(self._console, width)

    def facts(self, lines: Sequence[tuple[str, str | Text]]) -> None:
        """Print labelled lines."""
        for label, text in lines:
            self._console.print(Text.assemble((f"{label:<{LABEL_WIDTH}} ", "bold"), text), soft_wrap=True)

    def row(self, title: str, row: Row) -> None:
        """Print a row: how it is divided, then passage by passage its document and text."""
        seq_len = row.batch.input_ids.shape[1]
        ids = row.batch.input_ids[0].tolist()
        used = sum(passage.length for passage in row.passages)
        self._console.print()
        self._console.print(Text(title, "bold"), soft_wrap=True)
        cut = sum(not passage.is_whole for passage in row.passages)
        held = f"{len(row.passages) - cut} whole documents, {cut} parts of documents"
        self.facts([("holds", f"{held}, {used:,} tokens, {seq_len - used:,} padding")])
        bar = document_bar([passage.length for passage in row.passages], seq_len, self._inside)
        self.facts([("", bar)])
        if self._with_mask:
            picture = mask_picture(row.batch.doc_ids[0].numpy(), MASK_CELLS)
            self.facts([("mask" if number == 0 else "", line) for number, line in enumerate(picture)])
        for number, (passage, origin) in enumerate(zip(row.passages, row.origins, strict=True)):
            self._passage(number, passage, origin, ids, row.learnt)

    def _passage(
        self, number: int, passage: Passage, origin: Mapping[str, str], ids: Sequence[int], learnt: np.ndarray
    ) -> None:
        place = slice(passage.position, passage.position + passage.length)
        end = passage.offset + passage.length
        part = (
            "whole" if passage.is_whole else f"its tokens {passage.offset:,} to {end:,} of {passage.document_tokens:,}"
        )
        self.facts(
            [
                (
                    letter(number),
                    f"{passage.shard}.parquet row {passage.shard_row:,}: {origin['id']}, {origin['source']}",
                ),
                ("", f"positions {place.start:,} to {place.stop:,}, {part}"),
            ]
        )
        for title, half in self._halves(place, ids):
            tokens = styled_tokens(token_texts(self._codec, ids[half]), learnt[half], self._look)
            lines = folded(tokens, self._inside.width, self._lines)
            self.facts([("", line) for line in ([Text(title, "bold"), *lines] if title else lines)])

    def _halves(self, place: slice, ids: Sequence[int]) -> list[tuple[str, slice]]:
        """The parts of a passage to be shown apart, each with its title: of a pair both replies, else all of it."""
        if not self._pairs:
            return [("", place)]
        middle = list(ids).index(self._codec.separator_id, place.start + 1)
        return [("preferred", slice(place.start, middle)), ("not preferred", slice(middle, place.stop))]

    @property
    def _inside(self) -> Look:
        """What is left of a line beside its label."""
        return Look(self._look.colour, max(self._look.width - LABEL_WIDTH - 1, 20))
