"""Text <-> ids: tokenizer, the V4 chat encoding, tool-call markup and its parsers. No torch."""
