"""Tokenizer files of other projects, turned into the one format that we keep: ``tokenizer.json``."""
