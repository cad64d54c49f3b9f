"""``python -m tests.doubles.kubernetes --port 0 --kubeconfig FILE``: a cluster until SIGTERM or
SIGINT.

The first line of the output is the path of the kubeconfig, the second the control URL (see
:mod:`tests.doubles.kubernetes.control`).
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
from tests.doubles.kubernetes.nodes.images import Image
from tests.doubles.kubernetes.objects.node import Node


def main() -> None:
    """Run a cluster."""
    options = _parser().parse_args()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="cluster-"))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    gc.set_threshold(50_000, 20, 100)  # thousands of objects stay: collections would find nothing
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.doubles.kubernetes", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, help="port of the API server; 0 takes a free one"
    )
    parser.add_argument(
        "--kubeconfig", type=Path, help="path of the kubeconfig; in the directory if unset"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        help="directory of logs and containers; if unset, a temporary one",
    )
    parser.add_argument("--namespace", default="default", help="default namespace")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="factor for the delays of a real cluster"
    )
    parser.add_argument("--latency", type=float, default=0.0, help="seconds added to every request")
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes")
    parser.add_argument("--gpus", type=int, default=8, help="number of GPUs of each node")
    parser.add_argument("--no-events", action="store_true", help="write no events")
    parser.add_argument("--scripted", action="store_true", help="run containers as timers")
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="NAME",
        help="image that exists; may be repeated",
    )
    return parser


def _nodes(count: int, gpus: int) -> list[Node]:
    """Return ``node-a``, ``node-b``, … with room for one pod per GPU and some more."""
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
