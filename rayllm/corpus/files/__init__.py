"""Bytes at URIs: finding files, reading them in chunks and lines, scratch tables."""
