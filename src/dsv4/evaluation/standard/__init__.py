"""Public benchmarks: their records, what is asked, how an answer is judged. One kind a file."""
