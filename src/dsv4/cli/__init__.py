"""The `dsv4` command: one module per subcommand, imported when that subcommand runs."""
