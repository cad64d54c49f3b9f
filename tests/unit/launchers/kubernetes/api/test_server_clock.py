"""The clock of the API server, as its answers tell it."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path

import pytest

from gpuqueue.launchers.kubernetes.api.server_clock import LAG, ServerClock
from tests.support.scripted_api import api_of, reply, serving

NOON = 1_795_608_000.0


class Machine:
    """This machine, whose own clock counts from its start."""

    def __init__(self) -> None:
        self.up = 5000.0
        self.server = ServerClock(lambda: self.up)

    def answered(self, at: float) -> None:
        self.server.answered({"Date": formatdate(at, usegmt=True)})


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_the_clock_runs_on_between_answers(machine: Machine) -> None:
    assert machine.server.now() is None
    machine.answered(NOON)
    machine.up += 7.5
    assert machine.server.now() == NOON + 7.5


def test_an_answer_that_lags_changes_nothing(machine: Machine) -> None:
    machine.answered(NOON)
    machine.up += 10
    machine.answered(NOON + 10.6 - LAG)  # whole seconds
    assert machine.server.now() == NOON + 10


@pytest.mark.parametrize("step", [600.0, 1.0, -600.0, -LAG - 1])
def test_a_clock_that_is_set_is_followed(machine: Machine, step: float) -> None:
    machine.answered(NOON)
    machine.answered(NOON + step)
    assert machine.server.now() == NOON + step


@pytest.mark.parametrize("date", ["", "yesterday", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_an_answer_without_a_time_tells_nothing(machine: Machine, date: str) -> None:
    machine.server.answered({"Date": date})
    assert machine.server.now() is None
    machine.answered(NOON)
    machine.server.answered({"Date": date})
    assert machine.server.now() == NOON


def test_a_refusal_tells_the_time_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    date = {"Date": formatdate(NOON, usegmt=True)}
    with serving(reply(404, {"kind": "Status", "code": 404}, headers=date)) as server:
        api = api_of(server, monkeypatch, tmp_path)
        assert api.server_time(17.0) == 17.0, "no answer has come"
        assert api.get_job("gpu-job") is None
    for each in (api, api.within("other")):
        assert NOON <= each.server_time(17.0) < NOON + 60
