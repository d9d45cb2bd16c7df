"""The audit on batches made from text, right ones and ones with each fault put in."""

import dataclasses

import pytest
import torch

from rayllm.core.errors import DataError
from rayllm.data.batches import Batch, make_batch
from rayllm.model.config import IGNORE_INDEX
from rayllm.tokenizer.codec import Codec
from rayllm.train.guards.audit import audit

SEQ_LEN = 24


@pytest.fixture
def batch(byte_codec: Codec) -> Batch:
    """Two rows of two domains, the second with a prompt that is only read, and a padding row."""
    first = [byte_codec.separator_id, *byte_codec.encode("the cat sat on the mat and slept well")][: SEQ_LEN + 1]
    second = [byte_codec.separator_id, *byte_codec.encode("question? answer and more of the answer")][: SEQ_LEN + 1]
    learnt = torch.tensor([False] * 10 + [True] * (SEQ_LEN - 9)).numpy()
    rows = [[(torch.tensor(first).numpy(), None)], [(torch.tensor(second).numpy(), learnt)], []]
    return make_batch(rows, [0, 1, 0], SEQ_LEN, byte_codec.separator_id)


def test_a_right_batch_gives_shares_by_domain_and_a_readable_beginning(batch: Batch, byte_codec: Codec) -> None:
    shares, row = audit([batch], byte_codec, ["web", "chats"], 1)
    assert shares == "first batch: web 1 rows, 100.0% learnt; chats 1 rows, 62.5% learnt"
    assert row == "first row (web): the cat sat on the mat"
    parts = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    chats = Batch(**{name: part if part is None else part[1:] for name, part in parts.items()})
    assert audit([chats], byte_codec, ["web", "chats"], 1)[1] == "first row (chats): ⟦question?⟧ answer and mo"


def test_a_row_that_teaches_nothing_is_refused(batch: Batch, byte_codec: Codec) -> None:
    batch.labels[1] = IGNORE_INDEX
    with pytest.raises(DataError, match=r"a row teaches nothing(.|\n)*step 5, row 1, domain chats"):
        audit([batch], byte_codec, ["web", "chats"], 5)


def test_labels_that_are_not_shifted_are_refused(batch: Batch, byte_codec: Codec) -> None:
    wrong = dataclasses.replace(batch, labels=batch.input_ids.clone())
    with pytest.raises(DataError, match="a label is not the token that follows"):
        audit([wrong], byte_codec, ["web", "chats"], 1)


def test_an_id_beyond_the_tokenizer_is_refused(batch: Batch, byte_codec: Codec) -> None:
    batch.input_ids[0, 3] = byte_codec.vocab_size
    with pytest.raises(DataError, match="a token that the tokenizer does not have"):
        audit([batch], byte_codec, ["web", "chats"], 1)


def test_a_row_of_conversations_of_which_all_is_learnt_is_refused_with_its_text(
    batch: Batch, byte_codec: Codec
) -> None:
    with pytest.raises(DataError, match=r"all of a row is learnt(.|\n)*step 2, row 0, domain web(.|\n)*the cat sat"):
        audit([batch], byte_codec, ["web", "chats"], 2, chats=["web", "chats"])
    assert len(audit([batch], byte_codec, ["web", "chats"], 2, chats=["chats"])) == 2


def test_a_row_that_ends_unlearnt_is_still_found_learnt_whole(batch: Batch, byte_codec: Codec) -> None:
    batch.labels[0, -5:] = IGNORE_INDEX
    with pytest.raises(DataError, match="all of a row is learnt"):
        audit([batch], byte_codec, ["web", "chats"], 2, chats=["web"])
    batch.labels[0, 0] = IGNORE_INDEX
    audit([batch], byte_codec, ["web", "chats"], 2, chats=["web"])
