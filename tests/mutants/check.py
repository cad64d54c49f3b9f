"""Runs the fast tests of the scripts on mutants: collected once, in a process for each mutant."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store.client import connect
from tests.mutants import reach
from tests.mutants.derive import Mutant
from tests.property.machine import Schedule
from tests.support.model_time import model_time

ROOT = Path(__file__).parents[2]
#: Where tests of the scripts are.
TESTS = ("tests/property", "tests/race")
#: Many schedules: of the machine, which has its turn after all tests, and of threads.
LEFT_OUT = "not test_schedules and not hundred"
#: Not a test: fixed schedules of the property machine; how many, and steps of each.
FIXED, SCHEDULES, STEPS = "schedules", 40, 40
HANGS = "it hangs"
#: Seconds that a mutant may take beyond ``TIMES`` those of its tests on the scripts as they are.
#: One that takes longer hangs: Redis is in a loop.
LONGEST, TIMES = 60.0, 4


@dataclass(frozen=True)
class Seen:
    """What a test did on the scripts as they are: its seconds, and the lines that it reached."""

    seconds: float
    lines: frozenset[str]


class Checks:
    """Tests that are collected once. Each mutant has them in a process forked from this one.

    Args:
        tests: files and folders.
        schedules: the fixed schedules, too.
    """

    def __init__(self, tests: Sequence[str] = TESTS, *, schedules: bool = True) -> None:
        self._tests = tests
        self._schedules = schedules
        self._runs: list[Run] = []
        self.seen: dict[str, Seen] = {}

    def run(self, work: Callable[[], None]) -> None:
        """Collect the tests, see what each does, and do the work, which may call ``begin``.

        Raises SystemExit: tests fail, or cannot be collected.
        """
        self._work, self._broken = work, ""
        # Modules are imported already, which pytest would warn of.
        arguments = ["-s", "-qq", "-n0", "-p", "no:cacheprovider", "-o", "filterwarnings=ignore"]
        arguments += ["-m", "not slow", "-k", LEFT_OUT]
        arguments += [str(ROOT / each) for each in self._tests]
        try:
            status = pytest.main(arguments, [self])
        finally:
            for each in self._runs:
                each.end()
        if self._broken or status != pytest.ExitCode.OK:
            raise SystemExit(self._broken or f"pytest ended with {status}")

    def pytest_sessionstart(self) -> None:
        """The same examples for each mutant, and no search for a shorter one."""
        hypothesis.settings.register_profile(
            "mutants",
            hypothesis.settings.get_profile("suite"),
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            report_multiple_bugs=False,
        )
        hypothesis.settings.load_profile("mutants")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("tests cannot be collected")
        self._session = session
        self._items = {each.nodeid: each for each in session.items}
        names = [*self._items, *([FIXED] if self._schedules else [])]
        said = self._begin(lambda: self._look(names)).said()
        if said["failed"]:
            self._broken = f"the checks fail on the scripts as they are: {said['failed']}"
            return True
        for name, (seconds, lines) in said["seen"].items():
            self.seen[name] = Seen(seconds, frozenset(lines))
        try:
            self._work()
        except Unchecked as exc:
            self._broken = str(exc)
        return True

    def begin(self, mutant: Mutant, names: Sequence[str]) -> Run:
        """Run tests on a mutant, in this order, until one fails."""
        seconds = TIMES * sum(self.seen[name].seconds for name in names)
        return self._begin(lambda: self._catch(mutant, names), LONGEST + seconds)

    def _begin(self, check: Callable[[], dict[str, Any]], longest: float = math.inf) -> Run:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writer)
            self._runs.append(Run(pid, reader, longest))
            return self._runs[-1]
        os.close(reader)
        try:
            said = self._alone(check)
            with os.fdopen(writer, "w") as pipe:
                json.dump(said, pipe)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
        raise AssertionError  # not reached

    def _alone(self, check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Check, and end what the tests have begun; what they print goes nowhere."""
        session, errors = self._session, os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        directory = tempfile.mkdtemp(prefix="gpuqueue-")
        os.environ["GPUQUEUE_RUNTIME_DIR"] = directory
        try:
            said = check()
            with suppress(Exception):  # a mutant may break the end of a test, too
                session.config.hook.pytest_sessionfinish(session=session, exitstatus=0)
        except BaseException:
            os.dup2(errors, 2)
            raise
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        return said

    def _look(self, names: Sequence[str]) -> dict[str, Any]:
        """Run all on the scripts as they are."""
        seen = {}
        with reach.reached() as new:
            for name, failed in self._each(names):
                if failed:
                    return {"failed": name}
                seen[name] = (self._seconds, sorted(new()))
        return {"failed": "", "seen": seen}

    def _catch(self, mutant: Mutant, names: Sequence[str]) -> dict[str, Any]:
        with reach.replaced(lambda file, text: mutant.text if file == mutant.file else text):
            for name, failed in self._each(names):
                if failed:
                    return {"failed": name}
        return {"failed": ""}

    def _each(self, names: Sequence[str]) -> Iterator[tuple[str, bool]]:
        """Run tests; yields (name, it failed) as each ends."""
        for name, following in zip(names, [*names[1:], FIXED], strict=False):
            began = time.monotonic()
            self._failed = name == FIXED and not _schedules_hold()
            if name != FIXED:
                item = self._items[name]
                item.config.hook.pytest_runtest_protocol(
                    item=item, nextitem=self._items.get(following)
                )
            self._seconds = time.monotonic() - began
            yield name, self._failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed = self._failed or report.failed


class Unchecked(Exception):
    """A process that checks has ended without an answer."""


class Run:
    """Tests that run in a process; ``longest``: seconds until they are said to hang."""

    def __init__(self, pid: int, reader: int, longest: float) -> None:
        self._pid, self._pipe = pid, os.fdopen(reader)
        self._until = time.monotonic() + longest
        self._hangs = False

    def ended(self) -> bool:
        """Return whether it has ended, or hangs, and is ended now."""
        if self._pid and os.waitpid(self._pid, os.WNOHANG)[0]:
            self._pid = 0
        if self._pid and time.monotonic() > self._until:
            self._hangs = True
            self.end()
        return not self._pid

    def end(self) -> None:
        """End it, with all that it has begun. May be repeated."""
        if self._pid:
            process = psutil.Process(self._pid)
            for each in [*process.children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def said(self) -> dict[str, Any]:
        """Return what it found: ``failed``, the name of a test or empty. Waits for its end.

        Raises Unchecked.
        """
        with self._pipe:
            text = self._pipe.read()
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0
        if self._hangs:
            return {"failed": HANGS}
        if not text:
            raise Unchecked("a check ended without an answer")
        found: dict[str, Any] = json.loads(text)
        return found


def _schedules_hold() -> bool:
    with EmbeddedRedis() as server, model_time():
        client = connect(server.url)

        class OnThisRedis(Schedule):
            redis_client = client

        chosen = hypothesis.settings(
            max_examples=SCHEDULES,
            stateful_step_count=STEPS,
            suppress_health_check=list(HealthCheck),
        )
        try:
            run_state_machine_as_test(OnThisRedis, settings=chosen)
        except Exception:
            return False
        finally:
            client.close()
    return True
