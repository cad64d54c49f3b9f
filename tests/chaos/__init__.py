"""Chaos: seeded schedules of faults against real processes, judged from outside.

``python -m tests.chaos`` (``make chaos``) runs them and writes the table of
docs/explanation/crash-report.md. The way of a schedule: ``plan`` derives jobs and faults from its
seed, ``stage`` has the processes, ``jobs`` makes the messages, ``faults`` act on the processes,
``play`` runs one schedule, ``checker`` compares what Celery says with what ran, ``report`` sums up.
"""
