"""Baselines and benchmarks."""
