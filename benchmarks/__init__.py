"""What the project costs, measured beside the limit of the same machine in the same run: see docs/benchmarks.md."""
