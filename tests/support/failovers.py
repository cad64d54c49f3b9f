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
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

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


class Load(threading.Thread):
    """Sends jobs until it is told to end."""

    def __init__(self, app: Celery) -> None:
        super().__init__(daemon=True)
        self._app, self._end = app, threading.Event()
        self.sent: list[str] = []

    def run(self) -> None:
        while not self._end.wait(PERIOD):
            job = uuid()
            while not self._sends(job) and not self._end.wait(0.2):
                pass
            self.sent.append(job)

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
            # Else redis-py may lead this client back to a server that is no primary any more.
            ask_sentinels(app)
            words = ["-A", "gpuqueue", "worker", "--loglevel=INFO", "-n"]
            for name in ("one", "two"):
                env = {**stack.env, "GPUQUEUE_METRICS_PORT": "0"}
                stack.start(name, [*words, f"{name}@test"], env)
            load = Load(app)
            load.start()
            for number in range(kills):
                time.sleep(PAUSE)
                old = servers.primary()
                old.end()
                elected = servers.fail_over(old)
                figures.longest_election = max(figures.longest_election, round(elected, 1))
                time.sleep(PAUSE)
                servers.rejoin(old) if quick else old.start()
                servers.whole()
                say(f"{number + 1}: {elected:.1f} s, {len(load.sent)} sent")
            load.finish()
            _count(figures, app, stack, load.sent, say)
    return figures


def _count(
    figures: Figures,
    app: Celery,
    stack: SecuredStack,
    sent: list[str],
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
    twice = [job for job, count in Counter(job for job, _ in ran).items() if count > 1]
    figures.run_twice = len(twice)
    figures.lost = sum(state in ("PENDING", "QUEUED", "STARTED") for state in states.values())
    figures.failed = sum(state in ("FAILURE", "REVOKED") for state in states.values())
    starts = sorted(at for _, at in ran)
    gaps = (later - earlier for earlier, later in pairwise(starts))
    figures.longest_stall = round(max(gaps), 1)
    for job in twice:
        say(f"{job} ran at {[at for each, at in ran if each == job]}")
    for job in [job for job in sent if states[job] != "SUCCESS"]:
        say(f"{job} is {states[job]}: {app.AsyncResult(job).traceback or 'no traceback'}")
    for earlier, later in pairwise(starts):
        if later - earlier > LONG:
            say(f"no job started for {later - earlier:.1f} s after {earlier:.1f}")


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
