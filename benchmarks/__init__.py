"""Benchmarks: ``python -m benchmarks [names...] [--quick]``. Each figure stands beside its peer,
measured in the same run.

Never here: figures that were not measured. Each module's docstring says what it measures, how, its
peer, floor and aim.
"""

#: In the order they run: module names of this package, each with ``run(size) -> list[Figure]``.
NAMES = (
    *("submit", "accept", "admissions", "commands", "handover", "memory", "depth", "replay"),
    *("kube_decode", "kube_launch", "kube_handover", "kube_requests", "kube_scale"),
)
