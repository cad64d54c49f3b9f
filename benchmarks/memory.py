"""How much Redis memory a waiting job costs.

Measured: the growth of ``used_memory`` per job over N jobs in line, minus the stored bytes of its
Celery message; then the same with the state QUEUED that a dispatcher writes into the result backend
for ``AsyncResult``. Peer: N plain Celery messages in the list of their broker, minus the bytes of
each. Aim: at most 2 KB per job beyond its message, including the QUEUED state.
"""

from __future__ import annotations

import json
import time

from benchmarks.harness import Figure, Sample, Size
from benchmarks.messages import CHUNK, fill, record_of, template
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.glue.results.states import Informing, ResultStates
from gpuqueue.model.names import SHARED
from gpuqueue.model.record import Record
from gpuqueue.model.states import QUEUED
from gpuqueue.store.client import Redis
from gpuqueue.store.keys import class_key

AIM = 2048
BUSY = GpuClass("t4", shared_slots=0, exclusive_slots=1)


def run(size: Size) -> list[Figure]:
    """Measure it."""
    count, repeats = size.of(10_000, 2_000), size.of(3, 2)
    kept, told, plain = [], [], []
    with Stage() as stage:
        made = template(stage.app, "gpu.t4.shared", stage.client)
        states = ResultStates(stage.app)
        stored, wire = len(json.dumps(made.packed).encode()), len(made.wire.encode())
        for _ in range(repeats):
            before = _used(stage.client)
            deliveries = fill(stage.client, BUSY, made, count)
            assert stage.client.zcard(class_key("t4", "waiting_shared")) == count
            in_line = _used(stage.client)
            record = record_of(made.packed, "t4", SHARED)
            waiting: Record = {**record, "id": deliveries[0]}
            states.store([Informing.of(waiting, QUEUED, made.packed["headers"])])
            name = str(stage.app.backend.get_key_for_task(deliveries[0]), "utf-8")
            state = stage.client.get(name)
            assert isinstance(state, str)
            for start in range(0, count, CHUNK):
                pipe = stage.client.pipeline(transaction=False)
                for each in deliveries[start : start + CHUNK]:
                    pipe.set(
                        name.replace(deliveries[0], each),
                        state.replace(deliveries[0], each),
                        ex=86_400,
                    )
                pipe.execute()
            kept.append((in_line - before) / count - stored)
            told.append((_used(stage.client) - before) / count - stored)
            stage.client.flushdb()
            before = _used(stage.client)
            for start in range(0, count, CHUNK):
                stage.client.lpush("plain", *made.wires(min(CHUNK, count - start)))
            plain.append((_used(stage.client) - before) / count - wire)
            stage.client.flushdb()
    peer = Sample(f"Celery message in its list, beyond its {wire} bytes", tuple(plain))
    name = f"memory of a waiting job, {count} waiting"
    return [
        Figure(
            f"{name}: the queue's own state",
            "bytes",
            Sample(f"beyond its {stored} bytes", tuple(kept)),
            (peer,),
        ),
        _aimed(
            f"{name}: with QUEUED in the backend",
            Sample(f"beyond its {stored} bytes", tuple(told)),
            peer,
        ),
    ]


def _aimed(name: str, ours: Sample, peer: Sample) -> Figure:
    return Figure(name, "bytes", ours, (peer,), aim=f"≤ {AIM} bytes", met=ours.middle <= AIM)


def _used(client: Redis) -> int:
    time.sleep(0.2)  # Redis trims its buffers ten times a second
    info = client.info("memory")
    assert isinstance(info, dict)
    # Buffers of connections and of the append-only file do not belong to a job.
    return (
        int(info["used_memory"])
        - int(info.get("mem_aof_buffer", 0))
        - int(info.get("mem_clients_normal", 0))
    )
