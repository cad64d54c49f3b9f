"""Doubles of other systems, for tests and benchmarks. The product never imports them, and no wheel
holds them.
"""
