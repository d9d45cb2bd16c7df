"""Packed tokens on disk: flat shards, written once, memory-mapped, read at any position."""
