"""Measurements, each beside its peer in the same run: `python -m benchmarks.NAME` from the checkout; README.md has the figures."""
