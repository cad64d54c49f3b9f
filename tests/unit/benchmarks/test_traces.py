"""The traces of the replay, and its page and tables."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import replay
from benchmarks.harness import Figure, Sample, Size
from benchmarks.replay.loop import play
from benchmarks.replay.measures import UNITS, measure
from benchmarks.replay.page import Shown, page
from benchmarks.replay.peers import Fifo, WaitForIdle
from benchmarks.replay.scenarios import SHAPE, Scenario, scenarios
from benchmarks.replay.tables import duration, reports, tables
from benchmarks.replay.traces import GENAI, T4, Job, Shape, alone, jobs_of, read
from gpuqueue.model.names import EXCLUSIVE, SHARED


@pytest.mark.parametrize("name", [T4, GENAI])
def test_without_a_trace_the_same_synthetic_jobs_are_made(name: str, tmp_path: Path) -> None:
    rows = read(None, name, 50)
    assert rows == read(tmp_path, name, 50) and len(rows) == 50
    assert len({job.isolation for job in jobs_of(rows, exclusive=0.2)}) == 2


def test_a_recorded_trace_is_read_in_order_of_arrival(tmp_path: Path) -> None:
    text = "arrival_s,duration_s,mode,user\n9,5,shared,ann\n7,3,exclusive,\n8,1,shared,\n"
    (tmp_path / T4).write_text(text)
    found = jobs_of(read(tmp_path, T4, 2))
    assert [(job.arrival, job.duration, job.isolation, job.tenant) for job in found] == [
        (0, 3, EXCLUSIVE, ""),
        (2, 5, SHARED, "ann"),
    ]


def test_exclusive_jobs_alone_wait_for_one_another() -> None:
    jobs = [Job(number, 0, 10 + number, EXCLUSIVE, "") for number in range(4)]
    jobs.insert(0, Job(9, 0, 1000, SHARED, ""))
    assert alone(jobs, Shape(gpus=1)) == 10 + 11 + 12
    assert alone(jobs, Shape(gpus=2)) == 11


@pytest.mark.parametrize("row", ["1,soon", "1"])
def test_a_trace_that_cannot_be_read_names_its_line(row: str, tmp_path: Path) -> None:
    (tmp_path / T4).write_text(f"arrival_s,duration_s\n{row}\n")
    with pytest.raises(ValueError, match=r"t4_openb\.csv, line 2: .*columns arrival_s"):
        read(tmp_path, T4, 9)


def test_scenarios_say_what_is_synthetic_and_what_is_charged() -> None:
    found = list(scenarios(None, Size(quick=True)))
    assert all("synthetic" in each.title for each in found)
    assert {each.charged for each in found} == {True, False}
    assert [each.title for each in found if each.by_share]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.44, "59.4 s"), (600, "10 min"), (7200, "2 h"), (500_000, "5.79 d")],
)
def test_a_time_span_has_the_unit_of_its_size(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def figure(name: str, ours: float, peer: float, aim: str = "", met: bool | None = None) -> Figure:
    peers = (Sample("waits for an idle GPU", (peer,)),)
    return Figure(f"A batch: {name}", "", Sample("gpuqueue", (ours,)), peers, aim=aim, met=met)


def test_a_report_has_a_row_for_each_scheduler_and_the_aims() -> None:
    known = [figure(name, 3, 2) for name in UNITS if name != "exclusive wait, p99"]
    aim = "≤ 0.4 of waits for an idle GPU"
    known.append(figure("exclusive wait, p99", 7200, 3600, aim, False))
    known.append(Figure("decisions of one caller", "/s", Sample("gpuqueue", (900.0,))))
    (report,) = reports([each.shape() for each in known])
    assert report.title == "A batch"
    assert [row[:4] for row in report.rows] == [
        ["gpuqueue", "3.000", "3 s, 3 s", "3 s, 2 h"],
        ["waits for an idle GPU", "2.000", "2 s, 2 s", "2 s, 60 min"],
    ]
    assert report.aims == [f"exclusive wait, p99 {aim}: missed (2 h, 2.00 of it)"]
    assert [str(each.title) for each in tables(known)] == ["A batch", "decisions of one caller"]


def test_the_picture_is_well_formed_and_draws_every_start() -> None:
    workload = [
        Job(0, 0.0, 4.0, SHARED, "a"),
        Job(1, 0.0, 2.0, EXCLUSIVE, "<b>"),
        Job(2, 1.0, 2.0, SHARED, "a"),
    ]
    played = play(workload, Fifo(SHAPE), SHAPE, charged=False)
    found = measure(workload, played, SHAPE, charged=False, whole=False)
    scenario = Scenario("A <batch>", workload, "Jobs & more.", drawn=True)
    text = page([Shown(scenario, {"first & best": played}, {"first & best": found})], SHAPE)
    tree = ET.fromstring(text.partition("\n")[2])
    charts = tree.findall(".//svg[@role='img']")
    assert len(charts) == 3
    shared, exclusive = charts[-1].findall("path")[:2]
    assert (shared.attrib["d"].count("M"), exclusive.attrib["d"].count("M")) == (2, 1)
    assert "://" not in text


@pytest.mark.parametrize(
    ("title", "which", "ours", "met"),
    [
        ("T4 as a batch", "makespan ÷ bound", 1.03, True),
        ("T4 as a batch", "overtaken before a drain", 9, False),
        ("T4 as a batch", "exclusive wait, p99", 4, True),
        ("T4 as a batch", "exclusive wait, p99", 4.1, False),
        ("T4 as a batch", "shared wait, p99", 11.1, False),
        ("T4 as arrived", "makespan ÷ bound", 2, None),
        ("Equal tenants", "Jain index", 0.98, False),
        ("Equal tenants", "Jain index", 0.99, True),
    ],
)
def test_an_aim_is_met_by_ours_beside_the_naive_rule(
    title: str, which: str, ours: float, met: bool | None
) -> None:
    measured = {"gpuqueue": {which: ours}, WaitForIdle.label: {which: 10.0}}
    scenario = Scenario(title, [], "", by_share=title == "Equal tenants")
    assert replay._figure(scenario, which, measured).met is met
