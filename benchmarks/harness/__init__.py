"""What benchmarks stand on: a database of their own, a vendor that costs next to nothing, processes measured."""
