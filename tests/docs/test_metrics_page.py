"""The pages about metrics name the metrics that dispatchers serve."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Metric

from gpuqueue.dispatcher.metrics.queue import QueueCollector
from gpuqueue.model.names import REFUSED
from gpuqueue.store.measures import Measured
from tests.support.every_metric import of_dispatcher, of_queue, sample_names
from tests.support.pages import Page

REFERENCE = Page("docs/reference/metrics.md")
QUERIES = Page("docs/operate/metrics.md")


def rows(families: dict[str, Metric]) -> dict[str, tuple[str, set[str]]]:
    found = {}
    for name, family in families.items():
        kind = "gauge" if family.type == "info" else family.type
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name + suffix] = (kind, labels)
    return found


def page(heading: str) -> dict[str, tuple[str, set[str]]]:
    return {
        row[0]: (row[1], set(re.findall(r"`(\w+)`", row[2]))) for row in REFERENCE.table(heading)
    }


def test_the_page_has_the_metrics_of_the_queue() -> None:
    assert page("## The queue") == rows(of_queue())


def test_the_page_has_the_metrics_of_one_dispatcher() -> None:
    assert page("## One dispatcher") == rows(of_dispatcher())


def test_every_metric_has_words_that_end_like_a_sentence() -> None:
    for family in [*of_queue().values(), *of_dispatcher().values()]:
        assert family.name.startswith("gpuqueue_")
        assert family.documentation[0].isupper() and family.documentation.endswith("."), family.name


def test_queries_name_metrics_that_exist() -> None:
    (queries,) = QUERIES.blocks("promql")
    named = set(re.findall(r"\bgpuqueue_\w+", queries))
    assert named and named <= sample_names()


def test_refusals_count_in_a_separate_class_without_a_line() -> None:
    found = of_queue()
    assert {sample.labels["gpu_class"] for sample in found["gpuqueue_jobs_ended"].samples} == {
        "t4",
        REFUSED,
    }
    assert {sample.labels["gpu_class"] for sample in found["gpuqueue_waiting_jobs"].samples} == {
        "t4"
    }


def test_registering_a_collector_reads_no_metric() -> None:
    class Silent:
        def of(self, name: str) -> Measured:
            raise AssertionError("registering asks Redis for nothing")

    CollectorRegistry().register(QueueCollector(Silent(), {}, dict, int))  # type: ignore[arg-type]
