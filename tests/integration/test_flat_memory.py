"""Nothing in the memory of a dispatcher grows with the number of jobs."""

from __future__ import annotations

import gc
import json
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.dispatcher.assemble import DispatcherProcess
from gpuqueue.launchers.kubernetes import assemble
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.store.client import connect
from gpuqueue.store.measures import Measures
from tests.support.instant_cluster import InstantCluster
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.integration]
#: A dispatcher in one process with its cluster takes milliseconds for each job.
FIRST, ALL, AT_ONCE = 200, 800, 50


class Jobs:
    """A dispatcher in this process, whose container jobs end at once."""

    def __init__(self, url: str, cluster: InstantCluster) -> None:
        self.client, self.cluster, self.sent = connect(url), cluster, 0
        self.app = Celery("dispatcher", broker=url, backend=url)
        settings: dict[str, Any] = {
            "CELERY_BROKER_URL": url,
            "CELERY_RESULT_BACKEND": url,
            "GPU_EXECUTION_MODE": "k8s_job",
            "GPUQUEUE_METRICS_PORT": 0,
            "T4_SHARED_SLOTS": 50,
        }
        self.dispatcher = DispatcherProcess(self.app, Settings(**settings), "one@here")
        self.dispatcher.watcher.start()

    def ended(self) -> int:
        counted = Measures(self.client).of("t4").counts.ended
        assert not counted or {reason for _, reason in counted} == {"SUCCEEDED"}
        return int(sum(counted.values()))

    def run(self, number: int) -> None:
        """Accept jobs, and wait until as many as ever were accepted have ended."""
        body = json.dumps([[], {"image": "tool:1", "command": ["true"]}, {}])
        while self.sent < number:
            for _ in range(AT_ONCE):
                packed = {
                    "body": body,
                    "content_type": "application/json",
                    "content_encoding": "utf-8",
                    "headers": {
                        "id": str(uuid.uuid4()),
                        "task": CONTAINER_TASK,
                        "argsrepr": "()",
                        "gpu": {"tenant": f"tenant-{self.sent}"},
                    },
                    "properties": {"priority": 0},
                    "delivery_info": {"exchange": "", "routing_key": "gpu.t4.shared"},
                }
                assert self.dispatcher.accept(packed) == ("accepted", "t4")
                self.sent += 1
            until(lambda: self.ended() == self.sent, 60, f"{self.sent} jobs have ended")

    def close(self) -> None:
        self.dispatcher.stop()
        self.app.close()
        self.client.close()


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    cluster = InstantCluster()
    monkeypatch.setattr(assemble, "Api", lambda settings: cluster)
    monkeypatch.setenv("GPU_IMAGE_ALLOW", "*")
    monkeypatch.setenv("GPU_EXECUTOR_IMAGE", "shop:1")
    with EmbeddedRedis() as server:
        made = Jobs(server.url, cluster)
        yield made
        made.close()


def sizes() -> dict[str, int]:
    """How many entries each container of this process has, and how many objects each type."""
    gc.collect()
    found: Counter[str] = Counter()
    for owner in gc.get_objects():
        found[f"{type(owner).__name__} objects"] += 1
        for each in gc.get_referents(owner):
            if isinstance(each, dict | set | list | deque):
                named = f"{type(each).__name__} {id(each)} of {type(owner).__name__}"
                found[named] = len(each)
    return dict(found)


def test_jobs_that_have_ended_leave_nothing_in_a_dispatcher(jobs: Jobs) -> None:
    jobs.run(FIRST)
    before = sizes()
    jobs.run(ALL)
    assert jobs.cluster.created == ALL
    most = (ALL - FIRST) / 2
    own = len(before)  # `before` is a container, too

    def grown() -> dict[str, int]:
        return {
            name: size - before.get(name, 0)
            for name, size in sizes().items()
            if size - before.get(name, 0) >= most and size != own
        }

    # What is written beside the way of a job follows it.
    until(lambda: not grown(), what="nothing has grown with the jobs", logs=lambda: str(grown()))
