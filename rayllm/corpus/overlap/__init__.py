"""Texts that share much: exact copies, near-copies, evaluation items within training texts."""
