"""Many requests from a file, in OpenAI's batch format, and their results into another."""
