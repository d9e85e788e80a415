"""Benchmarks and soak runs of Holdfast: real server processes, real trees, figures for docs/evidence.md."""
