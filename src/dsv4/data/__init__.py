"""Corpora, tokenizer training, token shards and batches: files in, padded batches of ids out."""
