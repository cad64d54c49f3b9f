"""What development needs on one machine: an embedded Redis, child processes, one dispatcher,
Flower.

Never here: anything that production dispatchers or executors import.
"""
