"""``python -m tests.doubles.kubernetes --port 0 --kubeconfig FILE``: a cluster until SIGTERM or
SIGINT.

The first line of its output is the path of the kubeconfig, the second the address of its control
(see :mod:`tests.doubles.kubernetes.control`).
"""

from __future__ import annotations

import argparse
import gc
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.doubles.kubernetes.cluster import Cluster
from tests.doubles.kubernetes.controllers.node_controller import Node
from tests.doubles.kubernetes.nodes.images import Image


def main() -> None:
    """Run a cluster."""
    parser = argparse.ArgumentParser(prog="python -m tests.doubles.kubernetes", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, help="of the API server; any that is free unless it is given"
    )
    parser.add_argument(
        "--kubeconfig", type=Path, help="where to write it; in the directory unless it is given"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="for logs and containers; a new one, removed in the end, unless given",
    )
    parser.add_argument("--namespace", default="default", help="one that exists")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="what a real cluster's delays are multiplied with"
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, help="seconds that every request takes longer"
    )
    parser.add_argument("--nodes", type=int, default=1, help="how many there are")
    parser.add_argument("--gpus", type=int, default=8, help="of each node")
    parser.add_argument("--no-events", action="store_true", help="write none")
    parser.add_argument("--scripted", action="store_true", help="containers are only timers")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="NAME",
        help="an image that there is; may be repeated",
    )
    options = parser.parse_args()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="cluster-"))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    gc.set_threshold(50_000, 20, 100)  # thousands of objects stay, and are looked through in vain
    cluster = Cluster(
        directory,
        pace=options.pace,
        latency=options.latency,
        port=options.port,
        namespace=options.namespace,
        processes=not options.scripted,
        events=not options.no_events,
        nodes=_nodes(options.nodes, options.gpus),
        images={name: Image() for name in options.image},
    )
    with cluster:
        path = cluster.kubeconfig
        if options.kubeconfig is not None:
            options.kubeconfig.write_bytes(path.read_bytes())
            path = options.kubeconfig
        sys.stdout.write(f"{path}\n{cluster.control_url}\n")
        sys.stdout.flush()
        stop.wait()
    if options.directory is None:
        shutil.rmtree(directory, ignore_errors=True)


def _nodes(count: int, gpus: int) -> list[Node]:
    """``node-a``, ``node-b``, … with room for as many pods as they have GPUs, and for some more."""
    names = (
        f"node-{chr(ord('a') + number)}" if number < 26 else f"node-{number}"
        for number in range(count)
    )
    room = max(1.0, gpus / 64)
    cpu, memory, pods = str(int(64 * room)), f"{int(256 * room)}Gi", str(gpus + 110)
    resources = {"nvidia.com/gpu": str(gpus)}
    return [Node(name, resources=resources, cpu=cpu, memory=memory, pods=pods) for name in names]


if __name__ == "__main__":
    main()
