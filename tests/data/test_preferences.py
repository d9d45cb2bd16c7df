"""Pairs of replies where there should be none, and other documents where there should be pairs."""

import pytest

from rayllm.core.errors import DataError
from rayllm.data.preferences import check_no_pairs, check_pairs
from rayllm.data.shards.format import ConversationCounts, PackedIndex, ShardRecord
from rayllm.data.shards.packed import PackedData


def packed(*, train_pairs: bool, validation_pairs: bool) -> PackedData:
    """The index of one domain; no shard is opened."""

    def shard(split: str, pairs: bool) -> list[ShardRecord]:
        counts = ConversationCounts(kept=5, pairs=5) if pairs else None
        return [
            ShardRecord(
                name=f"{split}/a",
                tokens=50,
                documents=5,
                bytes=100,
                tokens_sha256="",
                bounds_sha256="",
                conversations=counts,
            )
        ]

    splits = {
        "train": {"a": shard("train", train_pairs)},
        "validation": {"a": shard("validation", validation_pairs)},
    }
    index = PackedIndex(dtype="uint16", vocab_size=9, tokenizer_sha256="", separator_id=0, splits=splits)
    return PackedData("packed", index)


def test_without_an_objective_that_compares_pairs_are_refused_in_either_split() -> None:
    check_no_pairs(packed(train_pairs=False, validation_pairs=False))
    with pytest.raises(DataError, match=r"some domains hold pairs(.|\n)*train/a"):
        check_no_pairs(packed(train_pairs=True, validation_pairs=False))
    with pytest.raises(DataError, match=r"some domains hold pairs(.|\n)*validation/a"):
        check_no_pairs(packed(train_pairs=False, validation_pairs=True))


def test_with_one_other_documents_are_refused_in_either_split() -> None:
    check_pairs(packed(train_pairs=True, validation_pairs=True))
    with pytest.raises(DataError, match=r"other documents(.|\n)*train/a"):
        check_pairs(packed(train_pairs=False, validation_pairs=True))
    with pytest.raises(DataError, match=r"other documents(.|\n)*validation/a"):
        check_pairs(packed(train_pairs=True, validation_pairs=False))
