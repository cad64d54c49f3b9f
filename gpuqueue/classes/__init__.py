"""GPU classes: which GPUs there are, and which of them a job fits.

Never here: I/O, clocks, Redis, Kubernetes. Settings read the files; this package reads their text.
"""
