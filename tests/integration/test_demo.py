"""``gpuqueue demo``, for real; and that each of its promises can be broken."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import psutil
import pytest

import gpuqueue
from gpuqueue.cli.commands.demo import find_checkout
from gpuqueue.cli.demo.promises import Evidence, check, most_at_once
from gpuqueue.cli.demo.story import LIMIT
from gpuqueue.errors import GpuQueueError

COMMAND = [sys.executable, "-m", "gpuqueue.cli", "demo"]
#: Around the demo's own limit: start-up and shutdown.
PATIENCE = LIMIT + 60


def job(
    created: float,
    admitted: float | None,
    released: float | None,
    isolation: str = "shared",
    **said: Any,
) -> Any:
    times = {"created": created, "admitted": admitted, "released": released}
    fields = {"isolation": isolation, "reason": "SUCCEEDED", **said}
    return fields | {key: value for key, value in times.items() if value is not None}


def good() -> Evidence:
    """A run in which every promise held."""
    points = {"g1": {"accuracy": 0.9}, "g2": {"accuracy": 0.95}, "g3": {"accuracy": 0.92}}
    records = {
        "hours": job(0, 0, 5, reason="CANCELLED"),
        "g1": job(0, 0, 6),
        "g2": job(0, 5, 8),
        "whole": job(1, 8, 12, "exclusive"),
        "g3": job(0, 12, 15),
        "wrong": job(0, 12, 14, reason="ERROR"),
        "best": job(15, 15, 16),
        "unneeded": job(1, None, None, "exclusive", reason="CANCELLED", ended=2),
    }
    states = {"hours": "REVOKED", "unneeded": "REVOKED", "wrong": "FAILURE"}
    return Evidence(
        records=records,
        states={label: states.get(label, "SUCCESS") for label in records},
        answers={
            **points,
            "best": points["g2"],
            "whole": {"accuracy": 0.9},
            "wrong": ValueError("49 features, not 64"),
        },
        slots=2,
        seconds=16,
        limit=100,
        in_line=0,
        holders=0,
        grid=list(points),
        best="best",
        exclusive=["whole"],
        failing="wrong",
        stopped="hours",
        withdrawn="unneeded",
        stopped_at={"done": 3, "of": 100},
        process_gone=True,
    )


def but(
    field: str, label: str | None = None, value: Any = None, **said: Any
) -> Callable[[Evidence], Evidence]:
    """A change of one field; of one job in it, where a label is given."""

    def change(seen: Evidence) -> Evidence:
        if label is None:
            return dataclasses.replace(seen, **{field: value})
        before: dict[str, Any] = getattr(seen, field)
        after = {**before.get(label, {}), **said} if said else value
        changed: Any = {**before, label: after}
        return dataclasses.replace(seen, **{field: changed})

    return change


def test_all_promises_hold_for_a_good_run() -> None:
    assert [each.promise for each in check(good()) if not each.held] == []


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        pytest.param(but("states", "g1", "FAILURE"), "every training", id="a training failed"),
        pytest.param(
            but("answers", "g1", {"accuracy": 0.1}),
            "every training",
            id="a training learned nothing",
        ),
        pytest.param(
            but("answers", "best", {"accuracy": 0.92}),
            "the chord's body",
            id="the pick is not the best",
        ),
        pytest.param(
            but("answers", "best", {"accuracy": 0.99}),
            "the chord's body",
            id="the pick is none of the grid",
        ),
        pytest.param(
            but("states", "whole", "FAILURE"),
            "the exclusive jobs ran",
            id="an exclusive job failed",
        ),
        pytest.param(
            but("records", "g2", admitted=9, released=11),
            "no other job held the GPU",
            id="shared inside exclusive",
        ),
        pytest.param(
            but("records", "g3", admitted=11.999),
            "no other job held the GPU",
            id="shared began before exclusive ended",
        ),
        pytest.param(
            but("records", "g2", released=8.001),
            "no other job held the GPU",
            id="exclusive began before shared ended",
        ),
        pytest.param(
            but("records", "whole", admitted=15.5, released=18),
            "an exclusive job got",
            id="after the whole grid",
        ),
        pytest.param(
            but("records", "g2", admitted=4.9), "shared jobs ran", id="one more than the slots"
        ),
        pytest.param(
            but("answers", "wrong", RuntimeWarning()),
            "get() raised the exception",
            id="another exception",
        ),
        pytest.param(
            but("states", "wrong", "SUCCESS"),
            "get() raised the exception",
            id="the mistake went unnoticed",
        ),
        pytest.param(
            but("states", "hours", "SUCCESS"),
            "the job cancelled while it ran",
            id="the stopped job completed",
        ),
        pytest.param(
            but("process_gone", value=False),
            "the job cancelled while it ran",
            id="its process lives on",
        ),
        pytest.param(
            but("stopped_at", value={}),
            "the job cancelled while it ran",
            id="it was not seen to run",
        ),
        pytest.param(
            but("records", "unneeded", admitted=20.0),
            "the job cancelled while it waited",
            id="it started after all",
        ),
        pytest.param(but("in_line", value=1), "nothing is left", id="a job is left in line"),
        pytest.param(but("holders", value=1), "nothing is left", id="a slot is left held"),
        pytest.param(but("seconds", value=101), "all within", id="too slow"),
    ],
)
def test_a_broken_promise_is_seen(broken: Callable[[Evidence], Evidence], promise: str) -> None:
    failed = [each.promise for each in check(broken(good())) if not each.held]

    assert any(each.startswith(promise) for each in failed)


def test_nothing_at_all_keeps_no_promise_but_the_idle_ones() -> None:
    nothing = dataclasses.replace(
        good(), records={}, states={}, answers={}, grid=[], exclusive=[], stopped_at={}
    )

    kept = [each.promise.partition(":")[0] for each in check(nothing) if each.held]

    assert kept == ["nothing is left over", "all within 100 s"]


@pytest.mark.parametrize(
    ("spans", "most"),
    [
        ([], 0),
        ([(0, 1), (1, 2)], 1),
        ([(0, 2), (1, 3), (1, 2)], 3),
        ([(0, float("inf")), (5, 6)], 2),
    ],
)
def test_most_at_once(spans: list[tuple[float, float]], most: int) -> None:
    assert most_at_once(spans) == most


def test_demo_without_a_checkout_prints_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gpuqueue, "__file__", str(tmp_path / "site-packages" / "gpuqueue" / "__init__.py")
    )
    monkeypatch.chdir(tmp_path)

    with pytest.raises(GpuQueueError, match="make demo"):
        find_checkout()


def test_a_checkout_is_found_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gpuqueue, "__file__", str(tmp_path / "site-packages" / "gpuqueue" / "__init__.py")
    )
    monkeypatch.chdir(Path(__file__).parent)

    assert (find_checkout() / "examples" / "digits" / "app.py").is_file()


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(PATIENCE + 30)
def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    output = tmp_path / "out"
    done = subprocess.run(
        [*COMMAND, "--output", str(output)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    # Plain lines where the output is no terminal, with the typed reasons.
    for said in (
        "NO_FREE_SLOT",
        "DRAINING_FOR_EXCLUSIVE",
        "EXCLUSIVE_RUNNING",
        "SHARED_RUNNING",
        "best network",
    ):
        assert said in done.stdout
    results = json.loads((output / "results.json").read_text())
    assert all(each["held"] for each in results["checks"])
    assert results["best"]["accuracy"] > 0.85
    assert {each["reason"] for each in results["jobs"].values()} == {
        "SUCCEEDED",
        "ERROR",
        "CANCELLED",
    }
    root = ET.fromstring((output / "timeline.html").read_text())
    assert {row.text for row in root.iter("th") if row.get("scope") == "row"} == set(
        results["jobs"]
    )


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(90)
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "DEMO_TEST": str(tmp_path)}
    command = [*COMMAND, "--output", str(tmp_path / "out")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        said = ""
        for line in demo.stdout:
            said += line
            if " running " in line:
                break
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=45)

    assert demo.returncode == 130, said + rest
    assert "Traceback" not in rest
    deadline = time.monotonic() + 10
    while (left := _marked(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left


def _marked(value: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_TEST") == value:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found
