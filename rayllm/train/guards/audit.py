"""A look at the first batch before any of it is learnt: wrong labels and masks are the faults that no curve shows.

In: the micro-batches of a step as the model will get them. Out: lines for a person; or an error, where what is to be
learnt cannot be right.
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from rayllm.core.errors import DataError
from rayllm.data.batches import Batch
from rayllm.model.config import IGNORE_INDEX
from rayllm.tokenizer.codec import Codec

#: Tokens of the first row that are shown.
SHOWN_TOKENS = 48
FIX = "look at the rows with `rayllm explain`; a source's masks and the packing decide what is learnt"


def audit(
    batches: Sequence[Batch], codec: Codec, domains: Sequence[str], step: int, chats: Collection[str] = ()
) -> list[str]:
    """Check what a step will learn.

    Args:
        batches: Micro-batches of this rank.
        codec: The tokenizer of the data.
        domains: Names behind ``Batch.domain``.
        step: Number of the step, for errors.
        chats: Domains of conversations: of each, a part is to be learnt.

    Returns:
        The supervised share by domain, and the beginning of a row as text.

    Raises:
        DataError: If an id is not the tokenizer's, a label is not the token that follows, a row teaches nothing, or all
            of a row of conversations is to be learnt.
    """
    joined = Batch(*(torch.cat(parts) for parts in zip(*map(_tensors, batches), strict=True)))
    used = ~_padding(joined, codec.separator_id)
    _check_ids(joined, codec.vocab_size, step)
    _check_shift(joined, codec, step)
    _check_rows(joined, used, codec, domains, step)
    _check_masks(joined, used, codec, domains, step, chats)
    return [_shares(joined, used, domains), _excerpt(joined, used, codec, domains)]


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    return batch.input_ids, batch.labels, batch.doc_ids, batch.domain


def _padding(batch: Batch, separator_id: int) -> Bool[Tensor, " rows"]:
    """Rows that only fill up a rank's share."""
    nothing = (batch.labels == IGNORE_INDEX).all(dim=1)
    return nothing & (batch.input_ids == separator_id).all(dim=1)


def _check_ids(batch: Batch, vocab_size: int, step: int) -> None:
    highest = int(torch.maximum(batch.input_ids.max(), batch.labels.max()))
    if highest >= vocab_size or int(batch.input_ids.min()) < 0:
        raise DataError(
            "a batch holds a token that the tokenizer does not have",
            where=f"step {step}",
            why=f"id {highest:,}; the tokenizer has {vocab_size:,}",
            fix="pack the data again with --force",
        )


def _check_shift(batch: Batch, codec: Codec, step: int) -> None:
    """Within a row a label is the token after it."""
    labels, following = batch.labels[:, :-1], batch.input_ids[:, 1:]
    same = batch.doc_ids[:, :-1] == batch.doc_ids[:, 1:]
    wrong = same & (labels != IGNORE_INDEX) & (labels != following)
    if bool(wrong.any()):
        row, column = (int(value) for value in wrong.nonzero()[0])
        label, token = int(labels[row, column]), int(following[row, column])
        raise DataError(
            "a label is not the token that follows",
            where=f"step {step}, row {row}, position {column}",
            why=f"it is {codec.decode([label])!r}, the next token is {codec.decode([token])!r}",
            fix=FIX,
        )


def _check_rows(batch: Batch, used: Bool[Tensor, " rows"], codec: Codec, domains: Sequence[str], step: int) -> None:
    empty = used & (batch.labels == IGNORE_INDEX).all(dim=1)
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        raise DataError(
            "a row teaches nothing: all of its labels are masked",
            where=f"step {step}, row {row}, domain {domains[int(batch.domain[row])]}",
            why=f"{int(empty.sum())} of {int(used.sum())} rows are so; it begins {_beginning(batch, row, codec)!r}",
            fix=FIX,
        )


def _check_masks(
    batch: Batch, used: Bool[Tensor, " rows"], codec: Codec, domains: Sequence[str], step: int, chats: Collection[str]
) -> None:
    """In a row of conversations something is only read before the last that is learnt: at least the first prompt."""
    learnt = batch.labels != IGNORE_INDEX
    wanted = torch.tensor([name in chats for name in domains], device=learnt.device)[batch.domain]
    last = learnt.size(1) - learnt.flip(1).int().argmax(dim=1)
    whole = used & wanted & (learnt.sum(dim=1) == last)
    if bool(whole.any()):
        row = int(whole.nonzero()[0])
        raise DataError(
            "all of a row is learnt, though only replies should be",
            where=f"step {step}, row {row}, domain {domains[int(batch.domain[row])]}",
            why=f"{int(whole.sum())} of {int(used.sum())} rows are so; it begins {_beginning(batch, row, codec)!r}",
            fix=FIX,
        )


def _beginning(batch: Batch, row: int, codec: Codec) -> str:
    return " ".join(codec.decode(batch.input_ids[row, :SHOWN_TOKENS].tolist()).split())


def _shares(batch: Batch, used: Bool[Tensor, " rows"], domains: Sequence[str]) -> str:
    learnt = (batch.labels != IGNORE_INDEX).double().mean(dim=1)
    parts = []
    for number, name in enumerate(domains):
        rows = used & (batch.domain == number)
        if bool(rows.any()):
            parts.append(f"{name} {int(rows.sum())} rows, {float(learnt[rows].mean()):.1%} learnt")
    return f"first batch: {'; '.join(parts) or 'no rows on this rank'}"


def _excerpt(batch: Batch, used: Bool[Tensor, " rows"], codec: Codec, domains: Sequence[str]) -> str:
    """The first row's beginning; what is only read, not learnt, stands in ⟦ ⟧."""
    if not bool(used.any()):
        return "first batch: this rank has only padding"
    row = int(used.nonzero()[0])
    tokens = batch.input_ids[row, 1 : SHOWN_TOKENS + 1].tolist()
    learnt = (batch.labels[row, :SHOWN_TOKENS] != IGNORE_INDEX).tolist()
    pieces, start = [], 0
    for end in range(1, len(tokens) + 1):
        if end == len(tokens) or learnt[end] != learnt[start]:
            text = codec.decode(tokens[start:end])
            pieces.append(text if learnt[start] else f"⟦{text}⟧")
            start = end
    text = " ".join("".join(pieces).split())
    return f"first row ({domains[int(batch.domain[row])]}): {text}"
