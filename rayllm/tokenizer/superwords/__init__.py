"""Tokens that cross words: SuperBPE, and the learning of its merges."""
