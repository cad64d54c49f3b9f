"""Benchmarks: ``python -m benchmarks [names...] [--quick]``. Each figure has a peer that is
measured in the same run.

Never here: figures that no run measured. The docstring of each module states what it measures, how,
its peer, its floor and its aim.
"""

#: Modules of this package in the order of execution, each with ``run(size) -> list[Figure]``.
NAMES = (
    *(
        "submit",
        "accept",
        "admissions",
        "commands",
        "start",
        "start_pods",
        "handover",
        "memory",
        "depth",
        "scale",
        "monitors",
        "replay",
        "reliability",
    ),
    *(
        "kube_decode",
        "kube_launch",
        "kube_handover",
        "kube_requests",
        "kube_scale",
        "kube_in_flight",
        "kube_failover",
    ),
)
