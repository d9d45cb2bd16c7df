"""Texts to ids, fast: several encoders that must give the same ids, and the choice between them.

The reference is Hugging Face ``tokenizers``; it defines what a ``tokenizer.json`` means.
"""
