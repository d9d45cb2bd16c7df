"""The data card: what was counted, and how a person reads it."""
