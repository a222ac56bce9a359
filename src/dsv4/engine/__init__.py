"""Ids in, ids out: sampling and generation over a model and its decoding state."""
