"""One of several processes that enqueue at the same instant: prints the names and tokens of what it
was given to launch.

Arguments: address of Redis, number of this process, how many jobs it brings. It starts when a line
comes on its input.
"""

from __future__ import annotations

import json
import sys

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.store.client import connect
from gpuqueue.store.line import Line

CLASS = GpuClass("t4", shared_slots=5, exclusive_slots=1)


def main(url: str, number: int, jobs: int) -> None:
    line = Line(connect(url), by=f"d{number}")
    names = [f"p{number}-{index}" for index in range(jobs)]
    for name in names:
        line.accept(
            "t4", {"delivery": name, "id": name, "isolation": "shared", "gpu_class": "t4"}, "{}"
        )
    print("ready", flush=True)
    sys.stdin.readline()
    granted = [record for name in names for record in line.enqueue(CLASS, name)]
    print(json.dumps([[record["delivery"], record["token"]] for record in granted]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
