"""Rules that drop documents, each with a name: the first that a text breaks is the reason that is counted."""

from rayllm.corpus.quality.rules import Rules, RulesByContent, broken_rule, broken_rules

__all__ = ["Rules", "RulesByContent", "broken_rule", "broken_rules"]
