"""Which classes a list gives, by price or by wait, and where a job goes that needs more memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpuqueue.classes.choose import larger, resolve
from gpuqueue.classes.fallbacks import check_larger
from gpuqueue.classes.gpu_class import GpuClass, mig_class
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.errors import InvalidJob, SettingsError
from gpuqueue.model.names import parse_queue
from gpuqueue.model.request import GpuRequest

GB = 10**9
T4 = GpuClass("t4", shared_slots=8, exclusive_slots=1, memory=16 * GB)
L4 = GpuClass("l4", shared_slots=4, exclusive_slots=1, memory=24 * GB)
A100 = GpuClass("a100", exclusive_slots=2, memory=80 * GB, max_time_limit=60)
SMALL = mig_class("nvidia.com/mig-1g.5gb", 7)
ODD = GpuClass("odd", shared_slots=1)
ALL = {each.name: each for each in (A100, T4, SMALL, L4, ODD)}


def fitting(queue: str = "gpu.auto", known: dict[str, GpuClass] = ALL, **fields: Any) -> list[str]:
    found, _ = resolve(known, parse_queue(queue), GpuRequest(**fields))
    return [each.name for each in found]


# -- a list ----------------------------------------------------------------------------------------


def test_a_list_keeps_its_order_and_drops_what_does_not_fit() -> None:
    assert fitting(classes=("a100", "mig-1g.5gb", "t4")) == ["a100", "mig-1g.5gb", "t4"]
    assert fitting(classes=("a100", "mig-1g.5gb", "t4"), memory=10 * GB) == ["a100", "t4"]
    assert fitting(classes=("a100", "l4", "t4"), isolation="shared") == ["l4", "t4"]


@pytest.mark.parametrize(
    ("queue", "classes", "text"),
    [
        (
            "gpu.auto",
            ("t4", "h100"),
            "gpu.classes='h100' is an unknown class; this dispatcher has: a100, l4, mig-1g.5gb,",
        ),
        (
            "gpu.t4",
            ("t4", "l4"),
            "gpu.classes=['t4', 'l4'] contradicts the queue gpu.t4; send it to gpu.auto, or leave",
        ),
        ("gpu.mig", ("mig-1g.5gb",), "gpu.classes=['mig-1g.5gb'] contradicts the queue gpu.mig"),
    ],
)
def test_a_wrong_list_is_refused(queue: str, classes: tuple[str, ...], text: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        fitting(queue, classes=classes)
    assert text in str(caught.value)


# -- cost ------------------------------------------------------------------------------------------


def priced(**prices: str | None) -> dict[str, GpuClass]:
    return {
        name: replace(ALL[name], price_per_hour=price) for name, price in sorted(prices.items())
    }


def test_the_price_of_a_slot_comes_before_memory() -> None:
    # Of one slot: 0.5, 0.3 and 1.
    known = priced(t4="4", l4="1.2", a100="2")
    assert fitting(known=known) == ["l4", "t4", "a100"]
    # Alone on a GPU: 4, 1.2 and 1.
    assert fitting(known=known, isolation="exclusive") == ["a100", "l4", "t4"]


def test_equal_prices_leave_the_order_of_memory() -> None:
    assert fitting(known=priced(t4="8", l4="4", a100="2")) == ["t4", "l4", "a100"]


def test_a_class_without_a_price_makes_memory_decide() -> None:
    assert fitting(known=priced(t4="4", l4=None, a100="0")) == ["t4", "l4", "a100"]
    # One that cannot run the job has no part in it.
    known = priced(t4=None, l4="4", a100="1")
    assert fitting(known=known, memory=20 * GB) == ["a100", "l4"]


def test_the_price_of_a_slot_is_a_share_of_its_domain() -> None:
    by_device = replace(T4, price_per_hour="1", domains=4)
    assert [str(by_device.price_of_slot(kind)) for kind in ("shared", "exclusive")] == ["1/8", "1"]
    assert replace(A100, price_per_hour="1").price_of_slot("shared") is None


# -- a larger place --------------------------------------------------------------------------------

PLACES: dict[str, tuple[GpuClass, str, dict[str, Any], list[str]]] = {
    "a shared job: alone first, then larger classes": (
        *(T4, "shared", {}),
        ["t4 exclusive", "l4 shared", "a100 exclusive"],
    ),
    "an exclusive job stays exclusive": (
        *(T4, "exclusive", {}),
        ["l4 exclusive", "a100 exclusive"],
    ),
    "the largest class has none": (A100, "exclusive", {}, []),
    "of unknown memory: only alone": (ODD, "shared", {}, []),
    "a list: only its classes, in its order": (
        *(T4, "shared", {"classes": ("t4", "a100", "l4")}),
        ["t4 exclusive", "a100 exclusive", "l4 shared"],
    ),
    "a list: those behind its class": (
        *(T4, "exclusive", {"classes": ("a100", "t4", "l4")}),
        ["l4 exclusive"],
    ),
    "a list: none that is smaller": (
        *(T4, "exclusive", {"classes": ("t4", "mig-1g.5gb", "odd")}),
        [],
    ),
    "the class that its class names": (
        *(replace(T4, larger="a100"), "exclusive", {}),
        ["a100 exclusive"],
    ),
    "a list before the class that its class names": (
        *(replace(T4, larger="a100"), "exclusive", {"classes": ("t4", "l4")}),
        ["l4 exclusive"],
    ),
    "only classes that fit": (T4, "exclusive", {"slices": 2}, []),
}


@pytest.mark.parametrize(("own", "isolation", "fields", "places"), PLACES.values(), ids=PLACES)
def test_larger_places(
    own: GpuClass, isolation: str, fields: dict[str, Any], places: list[str]
) -> None:
    known = {**ALL, own.name: own}
    found = larger(known, own, isolation, GpuRequest(**fields))
    assert [f"{each.name} {kind}" for each, kind in found] == places


def test_a_larger_class_must_allow_the_time_limit() -> None:
    found = larger(ALL, T4, "exclusive", GpuRequest(), 61)
    assert [each.name for each, _ in found] == ["l4"]


# -- the classes file ------------------------------------------------------------------------------


def table(name: str, memory: int | None, larger: object = None) -> str:
    lines = [f"[classes.{name}]", "exclusive_slots = 1"]
    lines += [f"memory = '{memory}MB'"] if memory else []
    lines += [f"larger = {larger!r}"] if larger is not None else []
    return "\n".join(lines) + "\n"


def test_a_chain_of_larger_classes_is_taken() -> None:
    text = table("a", 1000, "b") + table("b", None, "c") + table("c", 2000)
    known = from_toml(text, "f.toml")
    check_larger(known, "f.toml")
    assert [each.larger for each in known.values()] == ["b", "c", None]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            table("a", None, "b") + table("b", None, "c") + table("c", None, "a"),
            (
                "f.toml: classes.a.larger='b' makes a cycle: a -> b -> c -> a; remove larger from"
                " one of them"
            ),
        ),
        (
            table("x", None, "a") + table("a", 1000, "b") + table("b", 2000, "a"),
            "f.toml: classes.x.larger='a' makes a cycle: a -> b -> a; remove",
        ),
        (
            table("a", 1000, "b"),
            "f.toml: classes.a.larger='b' is an unknown class; remove it, or add the class",
        ),
        (table("a", 1000, "a"), "f.toml: classes.a.larger='a' makes a cycle: a -> a; remove"),
        (
            table("a", 1000, "c") + table("b", 1000),
            "f.toml: classes.a.larger='c' is an unknown class; use one of: b",
        ),
        (
            table("a", 1000, "b") + table("b", 1000),
            "f.toml: classes.a.larger='b' has no more memory than 'a'; use a class with more",
        ),
        (
            table("a", 1000, 5),
            "f.toml: classes.a.larger=5 is not a class; use e.g. 'a100'",
        ),
    ],
    ids=[
        "three",
        "a chain into a cycle",
        "the only class",
        "itself",
        "unknown",
        "not larger",
        "a number",
    ],
)
def test_wrong_larger_classes_are_refused(text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_larger(from_toml(text, "f.toml"), "f.toml")
    assert problem in str(caught.value)
