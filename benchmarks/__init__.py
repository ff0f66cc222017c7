"""Measurements, each a command whose result lies in benchmarks/results with machine, commit and versions."""
