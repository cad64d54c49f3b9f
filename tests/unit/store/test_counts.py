"""Counts as the scripts keep them, read."""

from __future__ import annotations

from gpuqueue.store.counts import BOUNDS, Counts, parse
from gpuqueue.store.scripts import source


def test_no_counts_make_no_samples() -> None:
    assert parse({}) == Counts()


def test_a_field_is_what_isolation_and_reason() -> None:
    found = parse(
        {
            "accepted:shared": "3",
            "ended:shared:HOST_OOM": "2",
            "ended:exclusive:ERROR": "1",
            "repeated:shared:INFRA": "4",
            "warm:shared": "7",
        }
    )
    assert found.accepted == {"shared": 3}
    assert found.ended == {("shared", "HOST_OOM"): 2, ("exclusive", "ERROR"): 1}
    assert found.repeated == {("shared", "INFRA"): 4}
    assert found.warm == {"shared": 7}


def test_buckets_are_cumulative_and_complete() -> None:
    found = parse(
        {
            "wait:shared:0.1": "5",
            "wait:shared:60": "2",
            "wait:shared:inf": "1",
            "wait:shared:sum": "90000.5",
        }
    ).wait["shared"]
    assert [bound for bound, _ in found.buckets] == [
        *(repr(float(each)) for each in BOUNDS),
        "+Inf",
    ]
    assert dict(found.buckets) | {"0.1": 5, "15.0": 5, "60.0": 7, "86400.0": 7, "+Inf": 8} == dict(
        found.buckets
    )
    assert found.total == 90000.5


def test_a_bucket_of_another_version_counts_in_the_next_that_holds_it() -> None:
    found = dict(parse({"held:shared:7": "3"}).held["shared"].buckets)
    assert (found["5.0"], found["15.0"], found["+Inf"]) == (0, 3, 3)


def test_what_a_newer_version_counts_is_left_out() -> None:
    assert parse({"started:shared": "soon", "accepted:shared": "1"}).accepted == {"shared": 1}


def test_the_scripts_get_the_same_bounds() -> None:
    numbers = source("accept").partition("local BOUNDS = {")[2].partition("}")[0].split(", ")
    assert tuple(map(float, numbers)) == tuple(map(float, BOUNDS))
    assert list(BOUNDS) == sorted(BOUNDS)
