"""A learned judge of quality: hashed n-grams and a logistic regression, trained from labelled examples in the stage."""

from rayllm.corpus.classifier.config import LOW_SCORE, ClassifierConfig
from rayllm.corpus.classifier.scorer import Classifier, load_classifier
from rayllm.corpus.classifier.training import ClassifierReport, train

__all__ = ["LOW_SCORE", "Classifier", "ClassifierConfig", "ClassifierReport", "load_classifier", "train"]
