"""Doubles of other systems, for tests and benchmarks.

Never here: an import of the product. The product never imports a double, and no wheel has one.
"""
