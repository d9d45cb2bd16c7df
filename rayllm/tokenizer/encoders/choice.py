"""Which encoder a process uses: the fast one where it gives the reference's ids, the reference otherwise.

A wrong id is an error in the data that nobody would see. So the fast encoder must first give the reference's ids on
hundreds of hard texts (``probe``), and then it is watched: of every batch of real texts the head of the first one is
encoded by both, and any difference ends the run.
"""

import os
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from rayllm.core.errors import ConfigError, DataError
from rayllm.core.log import get_logger
from rayllm.tokenizer.encoders.encoder import Encoder, Fast, Flat, Reference
from rayllm.tokenizer.encoders.probe import probe_texts

logger = get_logger(__name__)

#: Set to ``reference`` to do without the fast encoder.
SWITCH = "RAYLLM_ENCODER"
#: Characters of one text in each batch that both encoders see: 2 to 4 % of the time of a batch of 1 MB.
WATCHED_CHARS = 512


class Watched:
    """A fast encoder whose ids are compared with the reference's on a share of all texts."""

    def __init__(self, fast: Encoder, reference: Encoder) -> None:
        self.name = fast.name
        self._fast, self._reference = fast, reference

    def encode(self, texts: Sequence[str]) -> Flat:
        """See ``Encoder``.

        Raises:
            DataError: If the two differ.
        """
        flat = self._fast.encode(texts)
        if len(flat.lengths) != len(texts) or int(flat.lengths.sum()) != len(flat.ids):
            raise _disagreement(self.name, f"{len(texts)} texts came back as {len(flat.lengths)}")
        if texts:
            self._compare(texts[0], flat)
        return flat

    def _compare(self, text: str, flat: Flat) -> None:
        """Encode the first text by the reference too: the whole, or the head of a long one."""
        short = len(text) <= WATCHED_CHARS
        head = [text[:WATCHED_CHARS]]
        found = flat.ids[: flat.lengths[0]] if short else self._fast.encode(head).ids
        if not np.array_equal(found, self._reference.encode(head).ids):
            raise _disagreement(self.name, f"other ids for {head[0][:80]!r}")


def choose_encoder(tokenizer: Tokenizer) -> Encoder:
    """The fast encoder if it is installed, knows this tokenizer, and passes the probe; else the reference.

    Args:
        tokenizer: With the recognition of special tokens in text switched off.

    Raises:
        ConfigError: If the switch in the environment has an unknown value.
    """
    reference = Reference(tokenizer)
    wanted = os.environ.get(SWITCH, "fast")
    if wanted not in ("fast", "reference"):
        raise ConfigError(f"{SWITCH} is {wanted!r}", fix="set it to fast or reference, or unset it")
    if wanted == "reference":
        logger.info("encoder: %s (%s=reference)", reference.name, SWITCH)
        return reference
    try:
        fast = Fast(tokenizer.to_str())
    except (ImportError, ValueError) as error:
        logger.info("encoder: %s; the fast one cannot be used: %s", reference.name, error)
        return reference
    if (text := first_difference(fast, reference, probe_texts(tokenizer))) is not None:
        logger.warning("encoder: %s; %s gives other ids for %r", reference.name, fast.name, text[:80])
        return reference
    logger.info("encoder: %s, its ids equal those of %s on the probe", fast.name, reference.name)
    return Watched(fast, reference)


def first_difference(one: Encoder, other: Encoder, texts: Sequence[str]) -> str | None:
    """The first text for which two encoders give different ids."""
    first, second = one.encode(texts), other.encode(texts)
    ends_first, ends_second = np.cumsum(first.lengths), np.cumsum(second.lengths)
    for number, text in enumerate(texts):
        left = first.ids[ends_first[number] - first.lengths[number] : ends_first[number]]
        right = second.ids[ends_second[number] - second.lengths[number] : ends_second[number]]
        if not np.array_equal(left, right):
            return text
    return None


def _disagreement(name: str, why: str) -> DataError:
    return DataError(
        f"{name} does not give the ids of the tokenizer",
        why=why,
        fix=f"set {SWITCH}=reference in the environment (slower), and please report the text; finished shards are kept",
    )
