"""Benchmarks of other harnesses, against any endpoint, through a relay that keeps the answers."""
