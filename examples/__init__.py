"""Runnable programs on real data. `python -m examples.demo` runs them all; each runs by itself as well."""
