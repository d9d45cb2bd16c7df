"""Text to token ids and back: training, freezing and using a byte-level tokenizer."""
