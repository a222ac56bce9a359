"""What was computed for a prefix of ids, kept for the requests that begin alike."""
