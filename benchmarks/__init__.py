"""How fast the toolkit is, beside plain code: `python -m benchmarks.throughput`."""
