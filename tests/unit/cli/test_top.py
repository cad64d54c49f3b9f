"""The frames of ``gpuqueue top``, drawn from made data."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from gpuqueue.cli.view import render
from gpuqueue.cli.view.top import frame
from gpuqueue.cli.view.top_boxes import box
from gpuqueue.cli.view.top_lines import draw
from gpuqueue.model.names import ISOLATIONS

NOW = 1_795_000_000.0


def job(number: int, isolation: str, **fields: Any) -> dict[str, Any]:
    """A job as the status has it."""
    return {
        "id": f"{number:08d}-2b5e-4a8e-9d6f-3c1b7a90e7d5",
        "name": "vision.train_a_model",
        "gpu_class": "t4",
        "isolation": isolation,
        "stands": "running",
        **fields,
    }


def domain(name: str, shared: int, exclusive: int = 0, **kept: bool) -> dict[str, Any]:
    return {
        "name": name,
        "slots": {"shared": 4, "exclusive": 1},
        "held": {"shared": shared, "exclusive": exclusive},
        "drained": False,
        "reserved": False,
        **kept,
    }


def gpu_class(name: str = "t4", **fields: Any) -> dict[str, Any]:
    """An idle class of one domain, as the status has it."""
    return {
        "name": name,
        "served": True,
        "slots": {"shared": {"used": 0, "total": 4}, "exclusive": {"used": 0, "total": 1}},
        "holders": [],
        "waiting": [],
        "waiting_total": dict.fromkeys(ISOLATIONS, 0),
        "delayed": 0,
        "finishing": 0,
        "idle_pods": 0,
        "places": [],
        "domains": [],
        "gate": {"closed": False, "bypassed": 0, "exclusive_in_a_row": 0},
        **fields,
    }


def test_a_domain_whose_node_is_to_come_has_no_free_slots_yet() -> None:
    waits = domain("new_7", 1) | {"bound": False, "set_aside": False}
    assert box(waits).plain == "new [■···]"


def busy() -> dict[str, Any]:
    """A class of four GPUs with a bit of everything."""
    running = [
        job(1, "shared", since=NOW - 3500, where=0, time_limit=3600.0, tenant="vision"),
        job(2, "exclusive", since=NOW - 61, where=1, time_limit=None, tenant="speech"),
        job(3, "shared", since=NOW - 5, where=2, stands="NODE_SILENT", detail="node-3 is away"),
    ]
    waiting = [
        job(10 + at, "shared", place=at + 1, reason="NO_FREE_SLOT", since=NOW - 90, tenant="nlp")
        for at in range(9)
    ]
    waiting.append(job(30, "exclusive", place=1, reason="SHARED_RUNNING", since=NOW - 4000))
    place = {
        "place": "device:host-1/GPU-7",
        "set_aside": True,
        "until": NOW + 42,
        "probe": None,
        "domain": "3",
        "error": "Xid 79: the GPU has fallen off the bus\nTraceback",
    }
    return gpu_class(
        slots={"shared": {"used": 6, "total": 16}, "exclusive": {"used": 1, "total": 4}},
        holders=running,
        waiting=waiting,
        waiting_total={"shared": 31, "exclusive": 1},
        delayed=2,
        finishing=1,
        idle_pods=3,
        places=[place],
        domains=[domain("0", 4), domain("1", 0, 1), domain("2", 2, drained=True), domain("3", 0)],
        gate=None,
    )


def status(*classes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "now": NOW,
        "dispatchers": ["t4-a", "t4-b"],
        "leader": "t4-b",
        "leaders": ["t4-b"],
        "unaccepted": {},
        "classes": list(classes),
        **fields,
    }


def lines(found: dict[str, Any], width: int = 80, height: int | None = None, **more: str) -> str:
    """What a terminal of that width shows of a frame."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(draw(frame(found), width, height, **more))
    return console.export_text()


def test_a_busy_class_at_80_columns() -> None:
    found = status(busy(), unaccepted={"gpu.t4": 12})
    assert lines(found).splitlines() == BUSY.splitlines()


BUSY = """\
gpuqueue top  2026-11-18 11:06:40 UTC
dispatchers: t4-b (leads), t4-a
12 in gpu.t4 not yet taken by a dispatcher

t4  shared 6/16, exclusive 1/4, waiting 32, delayed 2, finishing 1, idle pods 3
  0 [■■■■]  1 [████]  2 [■■▽▽]  3 [✕✕✕✕]
  ■ shared  █ exclusive  ▽ drains for an exclusive job  ✕ set aside
device:host-1/GPU-7: set aside; next try in 42s: Xid 79: the GPU has fallen off…

WAITING  who is next, and since when
t4 shared  31 in line  NO_FREE_SLOT
  1 00000010-2b5e-4a8e-9d6f-3c1b7a90e7d5 train_a_model       nlp         1m 30s
  2 00000011-2b5e-4a8e-9d6f-3c1b7a90e7d5 train_a_model       nlp         1m 30s
  3 00000012-2b5e-4a8e-9d6f-3c1b7a90e7d5 train_a_model       nlp         1m 30s
  4 00000013-2b5e-4a8e-9d6f-3c1b7a90e7d5 train_a_model       nlp         1m 30s
  5 00000014-2b5e-4a8e-9d6f-3c1b7a90e7d5 train_a_model       nlp         1m 30s
t4 exclusive  1 in line  SHARED_RUNNING
  1 00000030-2b5e-4a8e-9d6f-3c1b7a90e7d5 vision.train_a_model             1h 6m

RUNNING LONGEST  held / time limit
  ■ 00000001-2b5e-4a8e-9d6f-3c1b7a90e7d5 train_a_mo… t4 0     58m 20s / 1h
  █ 00000002-2b5e-4a8e-9d6f-3c1b7a90e7d5 train_a_mo… t4 1       1m 1s / none
  ■ 00000003-2b5e-4a8e-9d6f-3c1b7a90e7d5 train_a_mo… t4 2        5.0s / none
    NODE_SILENT: node-3 is away

TENANTS  among the first jobs of each line
  (none) 1 running, 1 waiting   speech 1 running, 0 waiting
  vision 1 running, 0 waiting   nlp 0 running, 9 waiting
"""


@pytest.mark.parametrize("width", [40, 60, 80, 132])
@pytest.mark.parametrize("height", [5, 16, 20, 24, 30, 60])
def test_a_frame_fits_every_terminal(width: int, height: int) -> None:
    names = [f"t4-dispatcher-on-a-host-with-a-long-name-{number}" for number in range(9)]
    found = status(busy(), gpu_class("a100"), dispatchers=names, leaders=names[8:])
    shown = lines(found, width, height, problem="Redis is away " * 9, keys="q: quit").splitlines()
    assert len(shown) <= height and max(map(len, shown)) <= width
    assert shown[0].startswith("gpuqueue top") and "Redis is away" in shown[1]
    if height >= 24 and width >= 60:
        assert "SHARED_RUNNING" in "".join(shown) and "00000001-2b5e" in "".join(shown)


def test_a_taller_terminal_shows_more_jobs_of_each_line() -> None:
    shown = [lines(status(busy()), 80, height).count("-2b5e-") for height in (14, 18, 24, 40)]
    assert shown == sorted(set(shown)) and shown[-1] == 13, "all that were read"


@pytest.mark.parametrize(
    ("held", "slots", "state", "cells"),
    [
        ((0, 0), (4, 1), "", "□□□□"),
        ((3, 0), (4, 1), "", "■■■□"),
        ((3, 0), (4, 1), "drained", "■■■▽"),
        ((0, 1), (0, 4), "reserved", "█◇◇◇"),
        ((0, 0), (4, 1), "set_aside", "✕✕✕✕"),
        ((1, 0), (4, 1), "set_aside", "■✕✕✕"),  # one job tries it
        ((0, 1), (4, 1), "", "████"),
        ((0, 1), (16, 4), "", "████" + 12 * "□"),
        ((0, 2), (0, 2), "", "██"),
        ((5, 0), (4, 1), "", "■■■■"),  # slots were taken away
        ((1, 0), (200, 1), "", "■" + 23 * "□"),
        ((199, 0), (200, 1), "", 23 * "■" + "□"),
        ((0, 0), (0, 0), "", ""),
    ],
)
def test_cells_of_a_domain(
    held: tuple[int, int], slots: tuple[int, int], state: str, cells: str
) -> None:
    one = {
        "name": "",
        "slots": dict(zip(ISOLATIONS, slots, strict=True)),
        "held": dict(zip(ISOLATIONS, held, strict=True)),
        "drained": state == "drained",
        "reserved": state == "reserved",
        "set_aside": state == "set_aside",
    }
    assert box(one).plain == f"[{cells}]"


def test_a_class_of_one_domain_drains_while_its_gate_is_closed() -> None:
    gate = {"closed": True, "bypassed": 8, "exclusive_in_a_row": 0}
    slots = {"shared": {"used": 1, "total": 4}, "exclusive": {"used": 0, "total": 1}}
    shown = lines(status(gpu_class(gate=gate, slots=slots)))
    assert "  [■▽▽▽]\n" in shown and "gate closed" in shown


def test_many_domains_are_drawn_in_few_rows_and_the_others_counted() -> None:
    many = [domain(f"node-{number:03d}", number % 5, 0) for number in range(500)]
    found = gpu_class(domains=many, gate=None)
    shown = lines(status(found), 80).splitlines()
    rows = [line for line in shown if line.startswith("  node-")]
    assert len(rows) == 8 and len({len(line) for line in rows}) == 1
    assert "  and 468 more: 375 shared, 0 exclusive, 93 idle" in shown
    assert len(lines(status(found), 80, 16).splitlines()) <= 16


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"dispatchers": []}, "no dispatcher is alive"),
        ({"dispatchers": [], "classes": []}, "no dispatcher has ever announced itself"),
        ({"leaders": []}, "no dispatcher leads at present"),
        ({"classes": [], "only": "b200"}, "class 'b200' is unknown; see `gpuqueue classes`"),
        ({"classes": [gpu_class(served=False)]}, "no live dispatcher serves this class"),
    ],
)
def test_what_is_wrong_is_said(fields: dict[str, Any], sentence: str) -> None:
    assert sentence in " ".join(lines(status(**{"classes": [gpu_class()], **fields})).split())


def test_texts_of_senders_cannot_steer_the_terminal() -> None:
    evil = "\x1b[2Jx\r\ny\u202e"
    holder = job(1, "shared", since=NOW, tenant=evil, name=evil, detail=evil, stands="IMAGE")
    shown = lines(status(gpu_class(holders=[holder | {"id": evil, "where": evil}])))
    assert not {"\x1b", "\r", "\u202e"} & set(shown)
    assert "\ufffd[2Jx" in shown


def test_tables_and_sentences_of_commands_cannot_steer_the_terminal() -> None:
    evil = "[red]\x1b[2Jx\ry\u202e\tz"
    out = Console(file=io.StringIO(), width=80)
    out.print(render.table([evil], [[evil]], title=evil))
    out.print(render.safe(f"{evil}\nnext line"))
    found = out.file.getvalue()  # type: ignore[attr-defined]
    assert not {"\x1b", "\r", "\u202e"} & set(found)
    assert found.count("[red]\ufffd[2Jx\ufffdy\ufffd") == 4 and "\nnext line" in found
    assert render.readable(f"{evil}\n") == "[red]\ufffd[2Jx\ufffdy\ufffd\tz\n", "as it is else"


def test_before_the_first_frame_only_the_problem_is_shown() -> None:
    assert draw(None, 80, 24, problem="reading ...").plain == "gpuqueue top\nreading ..."


def test_of_many_classes_the_busiest_are_shown_and_the_others_counted() -> None:
    many = [gpu_class(f"c{number}") for number in range(300)]
    many[100] = busy() | {"name": "busy"}
    many[200]["slots"]["shared"]["used"] = 2
    shown = lines(status(*many, unaccepted={f"gpu.c{at}": 2 for at in range(300)}), 80, 30)
    assert len(shown.splitlines()) <= 30
    assert "busy  shared" in shown and "c200  shared 2/4" in shown and "c299" not in shown
    assert "and 293 more classes: 0 running, 0 waiting (--class)" in shown
    assert "594 in 297 other queues not yet taken" in shown


def test_many_places_that_are_set_aside_are_counted() -> None:
    place = busy()["places"][0]
    places = [place | {"place": f"image:shop:{number}"} for number in range(20)]
    shown = lines(status(gpu_class(places=places)))
    assert "image:shop:7: set aside" in shown and "image:shop:8" not in shown
    assert "and 12 more (`gpuqueue places`)" in shown
