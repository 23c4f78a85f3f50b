"""Benchmarks: ``python -m benchmarks.NAME [--json FILE] [--quick]``; see :mod:`benchmarks.form`."""
