"""A trained classifier: texts to scores, and its files.

The files are ``weights.npy`` (float32, one for each hash) and ``classifier.json`` (the intercept, and what is counted).
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged
from rayllm.corpus.classifier.features import NgramFeatures, feature_rows
from rayllm.corpus.classifier.regression import probability

_WEIGHTS, _NOTES = "weights.npy", "classifier.json"


@dataclass(frozen=True)
class Classifier:
    """A logistic regression over n-grams.

    Attributes:
        features: What of a text is counted.
        weights: The weight of each hash.
        intercept: The log-odds of a text without any n-gram.
    """

    features: NgramFeatures
    weights: Float32[np.ndarray, " columns"]
    intercept: float

    def score(self, texts: Sequence[str]) -> Float32[np.ndarray, " texts"]:
        """How probable it is that each text is good; a text's score does not depend on the texts beside it.

        Args:
            texts: Cleaned texts; hundreds at once are much faster than one by one.
        """
        sums = [rows.times(self.weights) for rows in feature_rows(texts, self.features)]
        return probability(np.concatenate([*sums, np.empty(0)]) + self.intercept).astype(np.float32)

    def save(self, uri: str) -> str:
        """Write the classifier to a directory.

        Returns:
            The digest of its files, which ``load_classifier`` wants.
        """
        data = io.BytesIO()
        np.save(data, self.weights, allow_pickle=False)
        notes = json.dumps({"features": self.features.model_dump(), "intercept": self.intercept}).encode()
        storage.write_bytes(storage.join(uri, _WEIGHTS), data.getvalue())
        storage.write_bytes(storage.join(uri, _NOTES), notes)
        return _digest(data.getvalue(), notes)


@lru_cache(maxsize=2)
def load_classifier(uri: str, digest: str) -> Classifier:
    """Read a classifier, once in a process.

    Args:
        uri: The directory that ``Classifier.save`` wrote.
        digest: What it returned.

    Raises:
        ArtifactDamaged: If the files are not those that were written.
        OSError: If they cannot be read.
    """
    data, notes = (storage.read_bytes(storage.join(uri, name)) for name in (_WEIGHTS, _NOTES))
    if _digest(data, notes) != digest:
        raise ArtifactDamaged(
            "the quality classifier is not the one that was written",
            where=uri,
            fix="run `rayllm prepare` again; it trains a new one",
        )
    read = json.loads(notes)
    weights = np.load(io.BytesIO(data), allow_pickle=False)
    return Classifier(NgramFeatures.model_validate(read["features"]), weights, read["intercept"])


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
