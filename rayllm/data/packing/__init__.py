"""Packing: which tokens stand in which row, for rows of any length over the same shards."""
