"""Mixing: which rows of which domain every step reads, as pure functions of the seed and a table of stages."""
