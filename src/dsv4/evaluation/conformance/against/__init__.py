"""Predictions of another implementation, compared with those of the reference."""
