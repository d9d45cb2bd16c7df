"""Samples from a model, and a judge of whether each belongs to the domain of its prompt.

In: a model and validation documents. Out: continuations, each with the domain that a classifier of character n-grams
gives it. The classifier sees the continuation alone; the same classifier judges the documents' own continuations, which
says how far its word can be trusted at this length.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rayllm.core.rng import derive_seed
from rayllm.data.packing.rows import Segment
from rayllm.data.replies import end_ids, first_reply
from rayllm.data.shards.packed import PackedData
from rayllm.data.shards.stream import TokenStream
from rayllm.evals.config import SampleConfig
from rayllm.evals.identify import Identifier, fit_identifier
from rayllm.evals.ngram import sample_tokens
from rayllm.inference.generate import generate
from rayllm.inference.loading import Loaded

#: Training tokens of each domain that the classifier learns from, at most.
IDENTIFIER_TOKENS = 1_000_000
#: Shorter documents, with their separator, make no prompt: there is nothing left to continue.
MIN_DOCUMENT_TOKENS = 5


@dataclass(frozen=True)
class Prompt:
    """A piece of a validation document, and how the document really goes on after it."""

    ids: list[int]
    following: list[int]


@dataclass(frozen=True)
class Sample:
    """One continuation.

    Attributes:
        domain: Of the validation document that gave the prompt.
        prompt: Text of the prompt.
        text: What the model wrote.
        identified: The domain that the text looks like; None where it is blank.
        reference_identified: The same for the document's own continuation.
    """

    domain: str
    prompt: str
    text: str
    identified: str | None
    reference_identified: str | None

    def record(self) -> dict[str, Any]:
        """Its JSON form."""
        return asdict(self)


def write_samples(loaded: Loaded, packed: PackedData, config: SampleConfig, seed: int) -> list[Sample]:
    """Continue places of validation documents, and identify every continuation."""
    if config.per_domain == 0:
        return []
    identifier = learn_identifier(packed)
    context = loaded.model.config.max_seq_len
    config = config.model_copy(update={"prompt_tokens": min(config.prompt_tokens, context // 2)})
    samples = []
    for domain in packed.domains("validation"):
        prompts = choose_prompts(packed, domain, config, seed, longest_question=context // 2)
        if not prompts:
            continue
        written = generate(
            loaded.model,
            [prompt.ids for prompt in prompts],
            max_new_tokens=min(config.max_new_tokens, context - max(len(prompt.ids) for prompt in prompts)),
            sampling=config.sampling,
            stop_ids=end_ids(packed),
            seed=derive_seed(seed, "samples", domain),
        )
        decode = loaded.codec.decode
        for prompt, ids in zip(prompts, written, strict=True):
            text = decode(ids)
            samples.append(
                Sample(
                    domain=domain,
                    prompt=decode([i for i in prompt.ids if i != loaded.codec.separator_id]),
                    text=text,
                    identified=identifier.identify(text),
                    reference_identified=identifier.identify(decode(prompt.following)),
                )
            )
    return samples


def learn_identifier(packed: PackedData) -> Identifier:
    """Learn the domains from their training text, as it was packed."""
    codec = packed.codec()

    def text(domain: str) -> str:
        ids = sample_tokens(packed.stream("train", domain), IDENTIFIER_TOKENS)
        return codec.decode(ids[ids != codec.separator_id])

    return fit_identifier({domain: [text(domain)] for domain in packed.domains("train")})


def choose_prompts(
    packed: PackedData, domain: str, config: SampleConfig, seed: int, *, longest_question: int
) -> list[Prompt]:
    """Random places of randomly chosen validation documents, the same for the same seed; fewer where there are few.

    Not their beginnings: a source file often begins with a page of prose, which is no sign of its domain. A
    conversation is a prompt up to its first reply.

    Args:
        packed: The data.
        domain: One of its validation domains.
        config: How many, and how long.
        seed: Of the choice.
        longest_question: Tokens of a conversation to give at most; of a longer one the last.
    """
    stream = packed.stream("validation", domain)
    starts = stream.document_starts()
    ends = np.append(starts[1:], stream.num_tokens)
    rng = np.random.default_rng(derive_seed(seed, "prompts", domain))
    order = rng.permutation(len(starts))
    long_enough = order[(ends - starts)[order] >= MIN_DOCUMENT_TOKENS]
    chosen = np.resize(long_enough, config.per_domain) if len(long_enough) else long_enough
    prompts = []
    is_chat = domain in packed.chat_domains("validation")
    for document in chosen:
        start, length = int(starts[document]), int(ends[document] - starts[document])
        if is_chat:
            prompts.append(_question(stream, Segment(start, length), longest_question))
            continue
        needed = 1 + config.prompt_tokens + config.max_new_tokens
        place = int(rng.integers(0, max(1, length - needed + 1)))
        ids = stream.read(start + place, min(needed, length - place)).tolist()
        cut = 1 + min(config.prompt_tokens, len(ids) // 2)
        prompts.append(Prompt(ids[:cut], ids[cut:]))
    return prompts


def _question(stream: TokenStream, document: Segment, longest: int) -> Prompt:
    """A conversation up to its first reply, of a long one the end of that; then the reply."""
    reply = first_reply(stream, document)
    asked = stream.read(document.start, reply.start - document.start).tolist()
    return Prompt(asked[-longest:], stream.read(*reply).tolist())


def identification(samples: Sequence[Sample]) -> dict[str, Any]:
    """How many continuations look like their domain, in all and by domain, and the same for real text."""
    by_domain = {sample.domain: {"correct": 0, "total": 0} for sample in samples}
    for sample in samples:
        by_domain[sample.domain]["total"] += 1
        by_domain[sample.domain]["correct"] += sample.identified == sample.domain
    correct, total = sum(row["correct"] for row in by_domain.values()), len(samples)
    reference = sum(sample.reference_identified == sample.domain for sample in samples)
    return {
        "correct": correct,
        "total": total,
        "accuracy": correct / total if total else None,
        "reference_accuracy": reference / total if total else None,
        "by_domain": by_domain,
    }
