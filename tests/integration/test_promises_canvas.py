"""Links, errbacks, groups, chords, chains and replace are Celery's own, also where some of their
tasks are GPU jobs.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from celery import chain, chord, group
from celery.canvas import Signature
from celery.exceptions import ChordError
from stock import OutOfStock

from tests.support.celery_series import needs_stored_arguments
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.integration
CPU, GPU = "celery", "gpu.t4.shared"
ROUTES = [(GPU, GPU), (GPU, CPU), (CPU, GPU)]


def on(queue: str, signature: Signature) -> Signature:
    return signature.set(queue=queue)


# -- links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("linked", [CPU, GPU])
def test_a_link_gets_the_result(shop: ModuleType, stack: Stack, key: str, linked: str) -> None:
    shop.add.apply_async((1, 2), queue=GPU, link=on(linked, shop.pass_on.s(key)))
    assert stack.told(key) == 3


def test_several_links_are_all_called(shop: ModuleType, stack: Stack, key: str) -> None:
    links = [on(CPU, shop.pass_on.s(key)), on(GPU, shop.pass_on.s(key))]
    shop.add.apply_async((1, 2), queue=GPU, link=links)
    assert [stack.told(key), stack.told(key)] == [3, 3]


def test_a_link_is_not_called_after_a_failure(shop: ModuleType, stack: Stack, key: str) -> None:
    result = shop.fail.apply_async(
        queue=GPU, link=shop.pass_on.s(key), link_error=shop.old_errback.s(key)
    )
    assert stack.told(key) == ["old", result.id]
    assert stack.told_so_far(key) == []


@needs_stored_arguments
def test_errbacks_of_both_signatures_are_called(
    shop: ModuleType, stack: Stack, key: str, queue: str
) -> None:
    errbacks = [shop.old_errback.s(key), shop.new_errback.s(key)]
    result = shop.fail.apply_async(("OutOfStock",), queue=queue, link_error=errbacks)
    heard = sorted([stack.told(key), stack.told(key)])
    assert heard == [["new", result.id, "OutOfStock", "3 pears wanted", True], ["old", result.id]]


def test_errbacks_without_stored_arguments_are_called(
    shop: ModuleType, stack: Stack, key: str, queue: str
) -> None:
    errbacks = [shop.lone_errback.s(), shop.new_errback.s(key)]
    result = shop.fail.apply_async(("OutOfStock",), queue=queue, link_error=errbacks)
    assert stack.told(result.id) == ["old", result.id]
    assert stack.told(key) == ["new", result.id, "OutOfStock", "3 pears wanted", True]


def test_an_errback_without_stored_arguments_can_be_a_gpu_job(
    shop: ModuleType, stack: Stack
) -> None:
    result = shop.fail.apply_async(queue=CPU, link_error=on(GPU, shop.lone_errback.s()))
    assert stack.told(result.id) == ["old", result.id]


@needs_stored_arguments
def test_an_errback_can_be_a_gpu_job_itself(shop: ModuleType, stack: Stack, key: str) -> None:
    result = shop.fail.apply_async(queue=CPU, link_error=on(GPU, shop.old_errback.s(key)))
    assert stack.told(key) == ["old", result.id]


# -- groups and chords -----------------------------------------------------------------------------


def test_a_group_joins_in_order(shop: ModuleType) -> None:
    header = [on(GPU, shop.add.s(n, n)) for n in range(3)] + [on(CPU, shop.add.s(3, 3))]
    assert group(header).apply_async().get(PATIENCE) == [0, 2, 4, 6]


@pytest.mark.parametrize(("header", "body"), ROUTES)
def test_a_chord_crosses_from_cpu_to_gpu_and_back(shop: ModuleType, header: str, body: str) -> None:
    members = [on(header, shop.add.s(n, n)) for n in range(3)]
    assert chord(members, on(body, shop.total.s())).apply_async().get(PATIENCE) == 6


def test_a_chord_mixes_cpu_and_gpu_and_chains_in_its_header(shop: ModuleType) -> None:
    members = [
        chain(on(GPU, shop.add.s(1, 1)), on(CPU, shop.add.s(10))),
        chain(on(CPU, shop.add.s(2, 2)), on(GPU, shop.add.s(20))),
        on(GPU, shop.add.s(3, 3)),
        on(CPU, shop.add.s(4, 4)),
    ]
    assert chord(members, on(GPU, shop.total.s())).apply_async().get(PATIENCE) == 12 + 24 + 6 + 8


def test_a_chord_in_a_chain_in_a_chord(shop: ModuleType) -> None:
    inner = chord([on(GPU, shop.add.s(1, 1)), on(CPU, shop.add.s(2, 2))], on(GPU, shop.total.s()))
    outer = chord(
        [chain(inner, on(GPU, shop.add.s(100))), on(GPU, shop.add.s(3, 3))], on(CPU, shop.total.s())
    )
    assert outer.apply_async().get(PATIENCE) == 106 + 6


@pytest.mark.parametrize(
    "errback", [pytest.param("old_errback", marks=needs_stored_arguments), "lone_errback"]
)
@pytest.mark.parametrize("failing", [CPU, GPU])
def test_a_failing_member_fails_the_chord_and_calls_its_errback(
    shop: ModuleType, stack: Stack, key: str, failing: Any, errback: str
) -> None:
    arguments = (key,) if errback == "old_errback" else ()
    body = on(GPU, shop.total.s()).on_error(getattr(shop, errback).s(*arguments))
    result = chord([on(GPU, shop.add.s(1, 1)), on(failing, shop.fail.s())], body).apply_async()
    with pytest.raises(ChordError, match=r"ValueError\('no ValueError'\)"):
        shop.app.AsyncResult(result.id).get(
            PATIENCE
        )  # the body's own: `result` would raise its parent's error
    assert stack.told(key if arguments else result.id) == ["old", result.id]


def test_a_member_whose_executor_dies_fails_the_chord(
    shop: ModuleType, stack: Stack, key: str
) -> None:
    body = on(CPU, shop.total.s()).on_error(shop.new_errback.s(key))
    result = chord(
        [on(GPU, shop.add.s(1, 1)), on(GPU, shop.leave.s("SIGKILL"))], body
    ).apply_async()
    with pytest.raises(ChordError, match="killed by signal 9"):
        shop.app.AsyncResult(result.id).get(PATIENCE)
    assert stack.told(key)[:3] == ["new", result.id, "ChordError"]


def test_a_revoked_member_fails_the_chord(shop: ModuleType, stack: Stack, key: str) -> None:
    waits = on("gpu.t4.exclusive", shop.add.s(1, 1)).set(task_id=f"{key}-revoked")
    blocker = shop.hold.apply_async((key,), queue=GPU)
    stack.told(key)
    result = chord([waits, on(CPU, shop.add.s(1, 1))], on(CPU, shop.total.s())).apply_async()
    stack.in_state(f"{key}-revoked", "waiting")
    shop.app.control.revoke(f"{key}-revoked")
    with pytest.raises(ChordError, match="TaskRevokedError"):
        shop.app.AsyncResult(result.id).get(PATIENCE)
    stack.go(key)
    blocker.get(PATIENCE)


# -- chains ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), ROUTES)
def test_a_chain_crosses_from_cpu_to_gpu_and_back(
    shop: ModuleType, first: str, second: str
) -> None:
    assert (
        chain(on(first, shop.add.s(1, 2)), on(second, shop.add.s(10))).apply_async().get(PATIENCE)
        == 13
    )


def test_a_chain_stops_where_it_fails(shop: ModuleType) -> None:
    result = chain(
        on(GPU, shop.fail.s("OutOfStock")), on(CPU, shop.pass_on.si("never", "never"))
    ).apply_async()
    with pytest.raises(OutOfStock):
        result.get(PATIENCE)
    assert result.parent.state == "FAILURE"


# -- replace ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [CPU, GPU])
def test_a_task_is_replaced_by_one_on_either_queue(shop: ModuleType, other: str) -> None:
    assert shop.become.apply_async((other, 5), queue=GPU).get(PATIENCE) == 5


@pytest.mark.parametrize(("what", "expected"), [("chain", 5 + 1 + 10), ("chord", 6 + 7)])
def test_a_task_is_replaced_by_a_canvas(
    shop: ModuleType, queue: str, what: str, expected: Any
) -> None:
    assert shop.become.apply_async((what, 5), queue=queue).get(PATIENCE) == expected


def test_a_replaced_member_of_a_chord_still_counts(shop: ModuleType) -> None:
    members = [on(GPU, shop.become.s("chord", 1)), on(GPU, shop.become.s(GPU, 3))]
    assert chord(members, on(GPU, shop.total.s())).apply_async().get(PATIENCE) == 2 + 3 + 3
