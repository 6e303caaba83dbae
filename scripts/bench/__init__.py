"""Benchmarks: one module each, started by `make bench BENCH=<module>`.

A module has a docstring, whose first line says what is measured, and `run() -> Report`.
"""

from scripts.bench.report import Report

__all__ = ["Report"]
