"""The tables, examples and figures of the guides agree with the code and with measured runs."""

from __future__ import annotations

import inspect
import json
import math
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from gpuqueue.classes.toml_file import from_toml
from gpuqueue.model.names import CHOOSING
from gpuqueue.model.states import DISPATCHED, QUEUED, JobState
from gpuqueue.nvidia.devices import Device, deal
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.submit import gpu
from tests.support.pages import PAGES, ROOT, Page

CLASSES = Page("docs/howto/gpu-classes.md")
EXCLUSIVITY = Page("docs/explanation/exclusivity.md")
README = Page("README.md")

# -- states and queues -----------------------------------------------------------------------------


def test_the_way_of_a_job_has_each_state_once_in_order() -> None:
    rows = Page("docs/explanation/job.md").table("## States on the way")
    assert [row[0] for row in rows] == [str(state) for state in JobState]
    shown = " ".join(row[2] for row in rows)
    assert QUEUED in shown and DISPATCHED in shown


def test_the_table_of_gpu_arguments_has_each() -> None:
    arguments = [
        name
        for name, each in inspect.signature(gpu).parameters.items()
        if each.kind is not each.VAR_KEYWORD
    ]
    rows = Page("docs/howto/submit.md").tables("## Use `gpu(...)`")[0]
    assert [row[0].strip("`") for row in rows] == [*arguments, "any other"]


@pytest.mark.parametrize(
    ("page", "heading"),
    [("docs/howto/submit.md", "## Choose a queue"), ("docs/GPU_QUEUE.md", "## Queue names")],
)
def test_a_table_of_queues_has_each_kind(page: str, heading: str) -> None:
    named = [row[0] for row in Page(page).table(heading)]
    chosen = [f"gpu.{name}" for name in sorted(CHOOSING)]
    of_a_class = [f"gpu.<class>{isolation}" for isolation in (".shared", ".exclusive", "")]
    assert named == [*of_a_class, *chosen]


def test_the_bounds_of_overtaking_are_the_defaults() -> None:
    k, m = Settings().exclusive_patience, Settings().shared_patience
    assert f"(`GPUQUEUE_EXCLUSIVE_PATIENCE`, default {k})" in EXCLUSIVITY.text
    assert f"(`GPUQUEUE_SHARED_PATIENCE`, default {m})" in EXCLUSIVITY.text
    assert f"with K = {k} is therefore {k + 1} L" in EXCLUSIVITY.text
    queue = Page("docs/GPU_QUEUE.md").text
    assert f"(`GPUQUEUE_EXCLUSIVE_PATIENCE`, {k})" in queue
    assert f"(`GPUQUEUE_SHARED_PATIENCE`, {m})" in queue


# -- classes ---------------------------------------------------------------------------------------


def test_the_example_of_a_classes_file_is_one() -> None:
    example, *_ = CLASSES.blocks("toml")
    made = from_toml(example, "classes.toml")
    assert list(made) == list(tomllib.loads(example)["classes"])
    assert made["a100"].queues == ["gpu.a100"]
    assert made["t4"].queues == ["gpu.t4.shared", "gpu.t4.exclusive"]


def test_the_example_of_a_classes_file_deals_three_gpus() -> None:
    example, *_ = CLASSES.blocks("toml")
    found = [Device(str(index), f"GPU-{index}", "T4", 2**34) for index in range(3)]
    dealt = deal(from_toml(example, "classes.toml").values(), found)
    assert dealt == {"t4": ["GPU-0"], "a100": ["GPU-1", "GPU-2"]}


def test_the_slots_of_the_default_class_are_those_of_the_page() -> None:
    settings = Settings()
    slots = f"{settings.t4_shared_slots} shared slots and {settings.t4_exclusive_slots} exclusive"
    assert slots in CLASSES.text


# -- figures ---------------------------------------------------------------------------------------


def measured(*runs: str) -> list[float]:
    """The medians of some runs, also in thousandths and thousands of their unit."""

    def medians(node: Any) -> Iterator[float]:
        children = node.values() if isinstance(node, dict) else node
        if isinstance(node, dict) and isinstance(node.get("median"), (int, float)):
            yield node["median"]
        for child in children:
            if isinstance(child, (dict, list)):
                yield from medians(child)

    found = [
        median
        for run in runs
        for median in medians(json.loads((ROOT / "benchmarks" / "results" / run).read_text()))
    ]
    return [median * scale for median in found for scale in (1, 1e-3, 1e3)]


def is_measured(shown: str, figures: list[float]) -> bool:
    """Whether a figure rounds to what a page shows."""
    digits = len(shown.partition(".")[2])
    value = float(shown.replace(",", ""))
    return any(math.isclose(round(each, digits), value) for each in figures)


def test_every_figure_of_the_readme_was_measured() -> None:
    figures = measured(*re.findall(r"benchmarks/results/([\w.-]+\.json)", README.text))
    first, second = README.tables("## Benchmarks")
    conditions = {"100,000", "100", "1", "10", "50", "99", "4"}
    for row in (*first, *second):
        text = re.sub(r"p50 / p99|T4|every [\d.]+ s|with [\d,]+", "", " ".join(row))
        for shown in re.findall(r"\d[\d,]*(?:\.\d+)?", text):
            assert is_measured(shown, figures) or shown in conditions, (shown, row)


def test_every_figure_of_the_replay_was_measured() -> None:
    (run,) = re.findall(r"benchmarks/results/([\w.-]+\.json)", EXCLUSIVITY.text)
    (rows,) = EXCLUSIVITY.tables("## Choosing K")
    figures = measured(run)
    assert all(is_measured(cell.removesuffix(" s"), figures) for row in rows for cell in row[1:])


#: Pages with defaults and aims, not measurements.
UNMEASURED = ("docs/reference/", "benchmarks/")


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith(UNMEASURED)])
def test_every_fast_figure_of_a_page_was_measured(page: str) -> None:
    runs = sorted(each.name for each in (ROOT / "benchmarks" / "results").glob("20*.json"))
    figures = measured(*runs)
    for shown in re.findall(r"(?<![\d.])(\d[\d,.]*) ?(?:ms|µs|KB|/s)\b", Page(page).text):
        assert is_measured(shown, figures), shown


def test_a_figure_that_no_run_has_is_found() -> None:
    figures = measured("2026-11-23.json")
    assert is_measured("1,888", figures)
    assert not is_measured("1,777", figures)
