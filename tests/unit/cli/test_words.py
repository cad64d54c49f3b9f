"""What the command line says, without anything running."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys

import click
import pytest
import redis

from gpuqueue import cli
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli import COMMANDS, main
from gpuqueue.cli.commands import classes
from gpuqueue.cli.view.render import ago, duration, memory
from gpuqueue.cli.view.state import gpu_class
from gpuqueue.cli.view.words import ENDS, STATES, WAITS
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.reasons import EndReason, WaitReason
from gpuqueue.model.states import JobState


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (10, "10s"),
        (60, "1m"),
        (200, "3m 20s"),
        (3600, "1h"),
        (90_061, "1d 1h"),
        (-3, "0.0s"),
    ],
)
def test_a_duration_is_printed_in_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_time_is_printed_relative_to_now() -> None:
    assert (ago(None, 100), ago(40, 100), ago(120, 100)) == ("", "1m", "in 20s")


def test_memory_is_printed_in_gib() -> None:
    assert (memory(None), memory(15 * 2**30)) == ("", "15.0GiB")


def test_every_reason_and_state_has_a_sentence() -> None:
    assert set(WAITS) == set(WaitReason)
    assert set(ENDS) == set(EndReason)
    assert set(STATES) == set(JobState)


def test_a_class_survives_its_announcement_also_by_a_newer_version() -> None:
    made = GpuClass("a100", exclusive_slots=2, devices=(0, 1))
    assert gpu_class({**made.public(), "devices": [0, 1], "of_tomorrow": True}) == made


def test_help_names_every_command_and_imports_none() -> None:
    loaded = "any(name in sys.modules for name in ('rich', 'celery'))"
    code = f"import sys; from gpuqueue.cli import main; main(['--help']); sys.exit({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unknown"]) == 2
    assert "No such command" in capsys.readouterr().err


def test_a_redis_that_goes_away_under_a_command_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise redis.ConnectionError("connection refused")

    monkeypatch.setattr(classes, "open_state", away)
    assert main(["classes"]) == 2
    assert (
        capsys.readouterr().err
        == "gpuqueue: Redis cannot be reached: connection refused; try again when it answers\n"
    )
    monkeypatch.setattr(classes, "open_state", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["classes"])


@pytest.mark.parametrize("error", [None, ModuleNotFoundError(name="rich")])
def test_no_garbage_is_collected_while_a_command_is_imported(
    monkeypatch: pytest.MonkeyPatch, error: ModuleNotFoundError | None
) -> None:
    seen: list[int] = []
    before = gc.isenabled(), gc.get_threshold()

    def collections() -> int:
        return sum(each["collections"] for each in gc.get_stats())

    def imported(name: str) -> object:
        so_far, kept = collections(), [list[int]() for _ in range(100_000)]
        seen.append(collections() - so_far + len(kept[0]))
        if error:
            raise error
        return classes

    monkeypatch.setattr(cli, "import_module", imported)
    with contextlib.nullcontext() if error is None else pytest.raises(GpuQueueError, match="rich"):
        cli.cli.get_command(click.Context(cli.cli), "classes")
    assert seen == [0]
    assert (gc.isenabled(), gc.get_threshold()) == before
