"""Number formats of V4 (FP8, FP4, E8M0), quantised weights and activation rounding."""
