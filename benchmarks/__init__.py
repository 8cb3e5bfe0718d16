"""Measurements: what each part and the whole way can do, beside the limit of the machinery below it.

Run as `python -m benchmarks.run`. Owns the workload, the clocks and the printed figures; never part of a running
Penstock.
"""
