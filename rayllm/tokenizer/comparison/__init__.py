"""Tokenizers side by side on the same texts: opened from anything that holds one, and scored."""
