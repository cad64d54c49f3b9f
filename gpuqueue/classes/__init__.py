"""GPU classes: which GPUs exist, and which of them fit a job.

Never here: I/O, clocks, Redis, Kubernetes. Settings read the files; this package parses their text.
"""
