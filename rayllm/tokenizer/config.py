"""The three ways to a tokenizer, as settings: BPE or SuperBPE of our own, or one that exists."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rayllm.core.config import ConfigModel, Count
from rayllm.tokenizer.special import smallest_vocab


class TrainedConfig(ConfigModel):
    """What every tokenizer of our own has: size, text to learn from, and what may be a token."""

    vocab_size: Count = Field(
        default=8192, le=2**31 - 1, description="Ids in all: special tokens, the 256 bytes, and learned tokens."
    )
    max_bytes: Count = Field(default=64 << 20, ge=1, description="Text to learn from at most, in bytes.")
    weights: dict[str, float] | None = Field(
        default=None, description="Weight of each domain in the text to learn from; by default each as it comes."
    )
    min_frequency: int = Field(default=2, ge=1, description="A pair of tokens seen less often is not merged.")
    max_digits: int = Field(default=3, ge=1, le=3, description="Longest group of digits in one token.")
    num_reserved: int = Field(default=4, ge=0, le=1024, description="Special tokens kept for later use.")

    @field_validator("weights")
    @classmethod
    def _not_negative(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and (bad := [name for name, weight in value.items() if weight < 0]):
            raise ValueError(f"weights must not be negative: {', '.join(bad)}")
        return value

    @model_validator(mode="after")
    def _room_for_bytes(self) -> "TrainedConfig":
        if self.vocab_size < (least := smallest_vocab(self.num_reserved)):
            raise ValueError(f"vocab_size must be at least {least}: 256 bytes and the special tokens")
        return self


class BpeConfig(TrainedConfig):
    """Byte-level BPE with GPT-4's pattern: tokens within words."""

    kind: Literal["bpe"] = Field(default="bpe", description="Byte-level BPE.")


class SuperBpeConfig(TrainedConfig):
    """SuperBPE: most of the vocabulary within words, the rest across them."""

    kind: Literal["superbpe"] = Field(default="superbpe", description="BPE with tokens that cross words.")
    transition_frac: float = Field(
        default=0.9, gt=0, le=1, description="Share of the vocabulary that is learned within words, before the others."
    )
    transition_size: Count | None = Field(
        default=None, description="Vocabulary at which tokens across words begin; in place of transition_frac."
    )
    max_words: int = Field(default=4, ge=1, le=64, description="Words in one token at most.")

    @model_validator(mode="after")
    def _transition_within_the_vocabulary(self) -> "SuperBpeConfig":
        if self.transition_size is not None and "transition_frac" in self.model_fields_set:
            raise ValueError("set transition_size or transition_frac, not both")
        least = smallest_vocab(self.num_reserved)
        if not least <= self.transition <= self.vocab_size:
            raise ValueError(
                f"stage 2 would begin at a vocabulary of {self.transition:,}; it must lie between {least:,} (256 bytes "
                f"and the special tokens) and the vocab_size of {self.vocab_size:,}"
            )
        return self

    @property
    def transition(self) -> int:
        """Vocabulary at which stage 2 begins."""
        return int(self.vocab_size * self.transition_frac) if self.transition_size is None else self.transition_size


class AdoptConfig(ConfigModel):
    """A tokenizer that exists, with exactly its ids."""

    kind: Literal["adopt"] = Field(default="adopt", description="A tokenizer taken over.")
    from_file: str = Field(
        default=...,
        description="URI of tokenizer.json, vocab.json (merges.txt beside it), *.tiktoken or a SentencePiece *.model; "
        "each may end in .gz. Or a checkpoint, a train artifact or a run's directory: the tokenizer that is there.",
    )
    from_file_sha256: str | None = Field(default=None, description="What the file of `from_file` must hash to.")
    pattern: str | None = Field(
        default=None,
        description="How texts are cut into pieces, for files that do not say it (*.tiktoken, vocab.json): gpt2, "
        "cl100k, o200k, superbpe, or a regular expression.",
    )
    special_tokens: dict[str, int] | None = Field(
        default=None, description="Special tokens and their ids, for the same files; by default those of the pattern."
    )
    separator: str | None = Field(
        default=None,
        description="The special token between documents, such as </s>; by default <|endoftext|>, <|end_of_text|>, "
        "</s> or <eos>, the first that there is.",
    )

    @model_validator(mode="after")
    def _special_tokens_have_a_place(self) -> "AdoptConfig":
        if self.special_tokens is not None and self.pattern is None:
            raise ValueError(
                "special_tokens are for files without a pattern of their own; this one has its own already"
            )
        return self

    @property
    def weights(self) -> None:
        """Nothing is learned, so no domain has a weight."""
        return None


TokenizerConfig = Annotated[BpeConfig | SuperBpeConfig | AdoptConfig, Field(discriminator="kind")]
