"""The benchmarks of this project, one noun a file; `catalogue` lists them."""
