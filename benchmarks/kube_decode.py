"""What one event of a watch costs in time and memory.

Measured: ``read_line`` of a recorded event of a running pod (4 KB), into the struct of the few
fields that gpuqueue needs.

Peer: the typed model of the client for the same event, ``V1Pod.from_dict`` after parsing the JSON.

Floor: ``msgspec.json.decode`` that only skips the text.

Aim: at least 30 times less than the peer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from kubernetes import client

from benchmarks.harness import Figure, Sample, Size, alternate, cost, ratio
from gpuqueue.launchers.kubernetes.api.answers import POD_EVENTS, read_line

AIM = 30
RECORDING = Path(__file__).parents[1] / "tests" / "kubernetes" / "recordings" / "success.jsonl"


def run(size: Size) -> list[Figure]:
    """Measure it."""
    steps, repeats = size.of(2000, 200), size.of(9, 3)
    line = _event()
    skip = msgspec.json.Decoder(msgspec.Raw)
    model: Any = client.V1Pod
    ours, peer, floor = alternate(
        repeats,
        lambda: cost(steps, lambda: read_line(line, POD_EVENTS)),
        lambda: cost(steps // 10, lambda: model.from_dict(json.loads(line)["object"])),
        lambda: cost(steps, lambda: skip.decode(line)),
    )
    mine, theirs = Sample("read_line", ours), Sample("V1Pod.from_dict", peer)
    met = (ratio(mine, theirs) or 1) <= 1 / AIM
    return [
        Figure(
            "an event decoded",
            "µs",
            mine,
            (theirs,),
            Sample("skipping the text", floor),
            f"ratio ≤ 1/{AIM}",
            met,
        )
    ]


def _event() -> bytes:
    for text in RECORDING.read_text().splitlines():
        row = json.loads(text)
        if row.get("watch") == "pods" and row["object"]["status"].get("phase") == "Running":
            return json.dumps(
                {"type": row["type"], "object": row["object"]}, separators=(",", ":")
            ).encode()
    raise LookupError("no event of a running pod is recorded")
