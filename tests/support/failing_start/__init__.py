"""A machine on which no executor starts, while the file FAILING_START exists: on PYTHONPATH."""
