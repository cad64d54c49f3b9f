"""The primary is killed again and again under load: what is lost, what runs twice, what stalls.

``python -m tests.support.failovers 20`` kills it twenty times and prints the figures. The load: a
client that sends a job each ``PERIOD``, two dispatchers, executors as local processes. A send whose
error the client sees is repeated with the same id, as an application would.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import redis
from celery import Celery
from celery.utils import uuid

from gpuqueue.dispatcher.celery_sentinel import ask_sentinels
from gpuqueue.model.celery_redis import read
from tests.security.secured_stack import SecuredStack
from tests.support.sentinels import SentinelSet
from tests.support.waiting import until

#: Seconds between two jobs, of one job, and between the return of a server and the next kill.
PERIOD, WORK, PAUSE = 1.0, 0.2, 1.0
#: A gap between two starts that is told, in seconds.
LONG = 5.0
#: The Redis that the docs recommend: without a replica in step it takes no write.
SAFE = ("min-replicas-to-write 1", "min-replicas-max-lag 10")
SETTINGS = {"safe": SAFE, "default": ()}


@dataclass
class Figures:
    """What came of one run. Stalls are in seconds."""

    kills: int = 0
    jobs: int = 0
    #: Sent without an error, and without a result.
    lost: int = 0
    #: Started more than once.
    run_twice: int = 0
    #: With another result than SUCCESS.
    failed: int = 0
    #: From the kill until another server takes writes.
    longest_election: float = 0.0
    #: Between the starts of two jobs, one after the other.
    longest_stall: float = 0.0
    #: The time in which no primary took a write: longest, and the longest stall without it.
    longest_refusal: float = 0.0
    longest_own_stall: float = 0.0
    #: From the event that was lost, at the earliest, until the next kill.
    longest_window: float = 0.0


class Load(threading.Thread):
    """Sends jobs until it is told to end."""

    def __init__(self, app: Celery) -> None:
        super().__init__(daemon=True)
        self._app, self._end = app, threading.Event()
        #: Job → when its send was confirmed.
        self.sent: dict[str, float] = {}

    def run(self) -> None:
        while not self._end.wait(PERIOD):
            job = uuid()
            while not self._sends(job) and not self._end.wait(0.2):
                pass
            self.sent[job] = time.time()

    def _sends(self, job: str) -> bool:
        try:
            self._app.send_task(
                "ledger.gpu_count", ("ran", WORK), task_id=job, queue="gpu.t4.shared", retry=False
            )
        except Exception:
            return False
        return True

    def finish(self) -> None:
        self._end.set()
        self.join(60)


class Refusals(threading.Thread):
    """Writes to the primary again and again, and keeps the times in which it took none."""

    def __init__(self, servers: SentinelSet) -> None:
        super().__init__(daemon=True)
        self._servers, self._end = servers, threading.Event()
        self.found: list[tuple[float, float]] = []

    def run(self) -> None:
        last = time.time()
        while not self._end.wait(0.1):
            with suppress(redis.RedisError, StopIteration, ValueError):
                self._servers.primary().client.set("probe", time.time())
                now = time.time()
                if now - last > 0.5:
                    self.found.append((last, now))
                last = now

    def within(self, begin: float, end: float) -> float:
        """Return how many seconds of a time no write was taken."""
        return sum(max(0.0, min(end, to) - max(begin, since)) for since, to in self.found)

    def finish(self) -> None:
        self._end.set()
        self.join(60)


def fail_over(
    folder: Path,
    kills: int,
    lines: Sequence[str] = SAFE,
    *,
    quick: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> Figures:
    """Kill the primary a number of times. ``quick``: a killed server is a replica again at once;
    else the Sentinels make it one.
    """
    figures = Figures(kills=kills)
    options = json.dumps({"master_name": "mymaster"})
    with SentinelSet(folder / "servers", lines) as servers:
        celery = read(servers.env).celery()
        stack = SecuredStack(
            folder / "stack",
            {"all": servers.url},
            dispatcher={"GPUQUEUE_BROKER_TRANSPORT_OPTIONS": options},
            application={"LEDGER_BROKER_OPTIONS": options, "LEDGER_RESULT_OPTIONS": options},
        )
        with stack, Celery("load", set_as_current=False) as app:
            app.conf.update(celery)
            # Else kombu waits for up to 30 s between two tries to connect.
            app.conf.broker_transport_options |= {"max_retries": 1, "interval_max": 0.2}
            # Else redis-py may lead this client back to a server that is no primary any more.
            ask_sentinels(app)
            words = ["-A", "gpuqueue", "worker", "--loglevel=INFO", "-n"]
            for name in ("one", "two"):
                env = {**stack.env, "GPUQUEUE_METRICS_PORT": "0"}
                stack.start(name, [*words, f"{name}@test"], env)
            load, refusals, killed = Load(app), Refusals(servers), list[float]()
            refusals.start()
            load.start()
            for number in range(kills):
                time.sleep(PAUSE)
                old = servers.primary()
                killed.append(time.time())
                old.end()
                elected = servers.fail_over(old)
                figures.longest_election = max(figures.longest_election, round(elected, 1))
                time.sleep(PAUSE)
                servers.rejoin(old) if quick else old.start()
                servers.whole()
                say(f"{number + 1}: {elected:.1f} s, {len(load.sent)} sent")
            load.finish()
            refusals.finish()
            _count(figures, app, stack, load.sent, refusals, killed, say)
    return figures


def _count(
    figures: Figures,
    app: Celery,
    stack: SecuredStack,
    sent: Mapping[str, float],
    refusals: Refusals,
    killed: Sequence[float],
    say: Callable[[str], object],
) -> None:
    figures.jobs = len(sent)
    states: dict[str, str] = {}

    def all_ended() -> bool:
        for job in sent:
            if states.get(job) not in ("SUCCESS", "FAILURE", "REVOKED"):
                states[job] = app.AsyncResult(job).state
        return set(states.values()) <= {"SUCCESS", "FAILURE", "REVOKED"}

    with suppress(AssertionError):  # what has not ended is lost
        until(all_ended, 90, "every job has ended")
    ran = [json.loads(line) for line in (stack.folder / "ran").read_text().splitlines()]
    starts: dict[str, list[float]] = {}
    for job, at in ran:
        starts.setdefault(job, []).append(at)
    twice = {job: times for job, times in starts.items() if len(times) > 1}
    figures.run_twice = len(twice)
    figures.lost = sum(state in ("PENDING", "QUEUED", "STARTED") for state in states.values())
    figures.failed = sum(state in ("FAILURE", "REVOKED") for state in states.values())
    for job in [job for job in sent if states[job] != "SUCCESS" or job in twice]:
        event = min(starts.get(job, [sent[job]]))
        window = min((each - event for each in killed if each > event), default=float("inf"))
        figures.longest_window = max(figures.longest_window, round(window, 2))
        say(
            f"{job} sent {sent[job]:.2f} started {starts.get(job, [])}, {window:.2f} s before the"
            f" next kill, is {states[job]}: {app.AsyncResult(job).traceback or ''}"
        )
    figures.longest_refusal = round(max((to - since for since, to in refusals.found), default=0), 1)
    for earlier, later in pairwise(sorted(at for times in starts.values() for at in times)):
        stall = later - earlier
        own = stall - refusals.within(earlier, later)
        figures.longest_stall = max(figures.longest_stall, round(stall, 1))
        figures.longest_own_stall = max(figures.longest_own_stall, round(own, 1))
        if own > LONG:
            say(f"no job started for {stall:.1f} s after {earlier:.1f}, {own:.1f} s with writes")


def main() -> None:
    """Print the figures of one run with the recommended settings and one without."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.failovers")
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("settings", nargs="*", default=list(SETTINGS), help=", ".join(SETTINGS))
    parser.add_argument("--keep", type=Path, help="a folder for the logs of all processes")
    options = parser.parse_args()
    for name in options.settings:
        with tempfile.TemporaryDirectory() as temporary:
            folder = options.keep / name if options.keep else Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            lines, say = SETTINGS[name], partial(print, flush=True)
            found = fail_over(folder, options.kills, lines, say=say)
        print(name, json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
