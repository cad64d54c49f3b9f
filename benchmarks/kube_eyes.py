"""Other observers of a Job: a bare socket that reads a watch, and a client that polls each Job at
intervals.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
import urllib.request

from benchmarks.kube import TimedApi, token_of
from gpuqueue.launchers.kubernetes.api.client import Api


class Eye:
    """Reads a watch with a bare socket, and records the first line about each Job: the floor of any
    watcher.

    It ends together with the double.
    """

    def __init__(self, api: Api, path: str, mark: bytes) -> None:
        self.seen: dict[str, float] = {}
        self._mark = mark
        headers = {"Authorization": token_of(api)}
        request = urllib.request.Request(
            f"{api.server}{path}?watch=true&timeoutSeconds=600", headers=headers
        )
        self._answer = urllib.request.urlopen(request)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._answer:
                at = time.monotonic()
                if self._mark in line:
                    record = json.loads(line)["object"]["metadata"]["annotations"][
                        "gpuqueue.io/record"
                    ]
                    self.seen.setdefault(json.loads(record)["id"], at)
        except (OSError, ValueError, AttributeError):
            return  # the double has ended


class Poller:
    """Polls each Job at a fixed interval from its POST on, and records when the response first
    shows that it is complete.
    """

    def __init__(self, api: Api, jobs: TimedApi, every: float) -> None:
        self.seen: dict[str, float] = {}
        self.asked = 0
        self._api, self._jobs, self._every = api, jobs, every
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due: list[tuple[float, str]] = []
        known: set[str] = set()
        while not self._stopped.wait(0.001):
            for job_id in self._jobs.posted.keys() - known:
                known.add(job_id)
                heapq.heappush(due, (self._jobs.posted[job_id] + self._every, job_id))
            while due and due[0][0] <= time.monotonic():
                at, job_id = heapq.heappop(due)
                self.asked += 1
                job = self._api.get_job(self._jobs.names[job_id])
                if job and any(
                    each.type == "Complete" and each.status == "True"
                    for each in job.status.conditions or ()
                ):
                    self.seen[job_id] = time.monotonic()
                else:
                    heapq.heappush(due, (at + self._every, job_id))

    def stop(self) -> None:
        """Stop polling."""
        self._stopped.set()
        self._thread.join()
