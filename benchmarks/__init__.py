"""What prints the figures that the documentation quotes: ``python -m benchmarks``, or one by one; also as JSON."""
