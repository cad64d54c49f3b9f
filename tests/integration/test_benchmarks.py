"""The benchmarks run, and what they write has the shape that readers of it count on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.replay.tables import reports

ROOT = Path(__file__).parents[2]
#: Seconds for a benchmark of half a minute, on a machine with ten runnable processes for each core.
PATIENT = 380
pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(400)]


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        text=True,
        capture_output=True,
        timeout=PATIENT,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What three cheap ones write."""
    output = tmp_path_factory.mktemp("benchmarks") / "results.json"
    done = benchmarks("admissions", "memory", "scale", "--quick", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "admit: one job becomes a holder" in done.stdout
    assert "met" in done.stdout or "missed" in done.stdout
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_the_machine_is_described_and_not_named(results: dict[str, Any]) -> None:
    machine = results["machine"]
    assert machine["cores"] >= 1
    assert {"python", "redis_server", "date", "memory_bytes"} <= machine.keys()
    assert {"gpuqueue", "celery", "redis"} <= machine["packages"].keys()
    assert os.uname().nodename not in json.dumps(machine)


def test_every_figure_has_its_samples_and_its_verdict(results: dict[str, Any]) -> None:
    assert results["quick"] is True
    assert list(results["benchmarks"]) == ["admissions", "memory", "scale"]
    for benchmark in results["benchmarks"].values():
        assert benchmark["what"]
        for figure in benchmark["figures"]:
            for sample in (figure["ours"], *figure["peers"]):
                low, high = sample["spread"]
                assert len(sample["values"]) == sample["repeats"]
                assert low <= sample["median"] <= high
            assert all(peer["ratio"] is not None for peer in figure["peers"])
            assert (figure["aim"] is None) == (figure["met"] is None)


def test_the_replay_writes_its_figures_tables_and_picture(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    done = benchmarks("replay", "--quick", "--traces", str(tmp_path), "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(output.read_text())["benchmarks"]["replay"]["figures"]
    shown = reports(found)
    assert len(shown) == 11 and all(each.title in done.stdout for each in shown)
    assert all(len(each.rows) >= 5 for each in shown)
    bypass = [each for each in found if each["name"].endswith(": overtaken before a drain")]
    assert bypass and all(each["ours"]["median"] >= 0 for each in bypass)
    picture = (tmp_path / "replay.html").read_text()
    page = ET.fromstring(picture.partition("\n")[2])
    assert len(page.findall(".//svg[@role='img']")) == 2 * 11 + sum(
        len(shown[drawn].rows) for drawn in (0, 3)
    )
    assert "://" not in picture, "the page loads nothing from elsewhere"


def test_a_directory_of_traces_that_is_none_is_refused(tmp_path: Path) -> None:
    done = benchmarks("replay", "--traces", str(tmp_path / "none"))
    assert done.returncode == 2
    assert "--traces" in done.stderr and "no such directory" in done.stderr


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    done = benchmarks("depht")
    assert done.returncode == 2
    assert "unknown: depht; known: submit, accept," in done.stderr
