"""A whole codebase as one prompt."""
