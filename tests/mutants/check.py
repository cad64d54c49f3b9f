"""Runs the fast checks of the scripts on one mutant, in this process."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store import scripts
from gpuqueue.store.client import connect
from tests.mutants.derive import Mutant
from tests.property.machine import Schedule
from tests.support.model_time import model_time

ROOT = Path(__file__).parents[2]
#: Tests of the scripts, the quickest first. Tests of other processes would run the script as it is.
TESTS = (
    "tests/property/test_guards.py",
    "tests/property/test_holes.py",
    "tests/property/test_sendings.py",
    "tests/property/test_take.py",
    "tests/property/test_order.py",
    "tests/property/test_due.py",
    "tests/property/test_bounds.py",
    "tests/property/test_measured.py",
    "tests/property/test_cost.py",
    "tests/property/test_lease.py",
    "tests/property/test_line_rules.py",
    "tests/property/test_upkeep_rules.py",
    "tests/property/test_release_rules.py",
    "tests/property/test_requeue_rules.py",
    "tests/property/test_escalate.py",
    "tests/property/test_escalate_several.py",
    "tests/property/test_task_memory.py",
    "tests/property/test_finishes.py",
    "tests/property/test_adopt.py",
    "tests/property/test_adopt_next.py",
    "tests/property/test_next.py",
    "tests/property/test_next_rules.py",
    "tests/property/test_waiting_pods.py",
    "tests/property/test_waiting_rules.py",
    "tests/property/test_node_rules.py",
    "tests/property/test_blame_rules.py",
    "tests/property/test_why.py",
    "tests/property/test_warm_repair.py",
    "tests/property/test_attempt_rules.py",
    "tests/property/test_admission_rules.py",
    "tests/property/test_several_slots.py",
    "tests/property/test_several_gpus.py",
    "tests/property/test_reserved.py",
    "tests/property/test_cancels.py",
    "tests/property/test_finish_rules.py",
    "tests/property/test_place_rules.py",
    "tests/property/test_places.py",
    "tests/property/test_holds.py",
    "tests/property/test_damaged.py",
    "tests/property/test_older_state.py",
    "tests/property/test_usage.py",
    "tests/property/test_tenant_rules.py",
    "tests/property/test_tenants.py",
    "tests/property/test_domains.py",
    "tests/property/test_node_domains.py",
    "tests/race/test_races.py",
)
LEFT_OUT = "not several_processes and not hundred"
#: Schedules of the machine, and steps of each.
SCHEDULES, STEPS = 40, 40


def use(mutant: Mutant) -> None:
    """Let this process load the mutant in place of the script."""
    real = scripts.sections

    def sections(verb: str) -> Iterator[tuple[str, str]]:
        for file, text in real(verb):
            yield file, mutant.text if file == mutant.file else text

    scripts.sections = sections
    scripts.script.cache_clear()


def catcher(tests: Sequence[str] = TESTS) -> str:
    """Return what catches the mutant in use; empty: nothing. Schedules run after all tests."""
    names = _Failed()
    # Modules are imported already, which pytest would warn of.
    arguments = ["-x", "-q", "-n0", "-p", "no:cacheprovider", "-o", "filterwarnings=ignore"]
    arguments += ["-m", "not slow", "-k", LEFT_OUT]
    present = [test for test in tests if (ROOT / test).exists()]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        status = pytest.main([*arguments, *(str(ROOT / each) for each in present)], plugins=[names])
    if names.found:
        return names.found
    assert status == pytest.ExitCode.OK, f"pytest ended with {status}"
    if tests is not TESTS:
        return ""
    return "" if _schedules_hold() else "schedules"


class _Failed:
    found = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.found:
            self.found = report.nodeid.rpartition("/")[2]


def _schedules_hold() -> bool:
    with EmbeddedRedis() as server, model_time():
        client = connect(server.url)

        class OnThisRedis(Schedule):
            redis_client = client

        chosen = settings(
            max_examples=SCHEDULES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                run_state_machine_as_test(OnThisRedis, settings=chosen)
        except Exception:
            return False
        finally:
            client.close()
    return True
