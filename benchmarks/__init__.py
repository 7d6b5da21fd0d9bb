"""Benchmarks of the server; see README.md."""
