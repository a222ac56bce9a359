"""`python -m dsv4` is the `dsv4` command."""

from dsv4.cli.main import run

if __name__ == "__main__":
    run()
