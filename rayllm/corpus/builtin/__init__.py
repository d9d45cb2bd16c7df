"""Corpora that every machine can make by itself: English prose from installed packages, and worked mathematics."""
