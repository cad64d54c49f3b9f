"""A message is parsed once, into what its job asks for."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from kombu.utils.json import dumps

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob, MalformedMessage
from gpuqueue.glue.messages.message import unpack
from gpuqueue.glue.messages.parse import identify, parse
from gpuqueue.glue.messages.submission import Submission
from gpuqueue.model.container import CONTAINER_TASK
from gpuqueue.model.names import QueueName
from gpuqueue.model.request import GpuRequest

MIDNIGHT = 1_764_028_800.0


def message(*args: Any, embed: dict[str, Any] | None = None, **headers: Any) -> dict[str, Any]:
    return {
        "headers": {"id": "one", "task": "shop.train"} | headers,
        "body": json.dumps([list(args), {}, embed or {}]),
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "properties": {"priority": 3},
        "delivery_info": {"exchange": "", "routing_key": "gpu.t4.shared"},
    }


def read(packed: dict[str, Any]) -> Submission:
    return parse(packed, identify(packed))


def test_queue_and_request_are_part_of_the_submission() -> None:
    found = read(message(gpu={"memory": "1GiB", "tenant": "vision", "image": "shop:1"}))
    assert found.queue == QueueName("t4", "shared")
    assert found.request == GpuRequest(memory=2**30, tenant="vision", image="shop:1")


def test_a_job_has_the_chosen_class_and_the_values_of_its_message() -> None:
    packed = message(
        gpu={"tenant": "vision", "image": "shop:1"},
        shadow="train",
        retries=1,
        replaced_task_nesting=2,
        eta="2025-11-25T00:00:00Z",
        timelimit=[60, 50],
        group="g",
        ignore_result=True,
    )
    job = read(packed).job(GpuClass("a100"), "exclusive")
    assert (job.gpu_class, job.isolation) == ("a100", "exclusive")
    assert (job.id, job.task, job.name, job.delivery) == ("one", "shop.train", "train", "one~1.2")
    assert (job.priority, job.eta, job.time_limit) == (3, MIDNIGHT, 60)
    assert (job.tenant, job.image, job.group) == ("vision", "shop:1", "g")
    assert (job.ignore_result, job.needs_app, job.signed) == (True, False, False)


@pytest.mark.parametrize(
    ("declared", "planned"), [(None, 0.0), (0.0, None), (30.0, 30.0), (90.0, 60.0)]
)
def test_the_limit_of_a_task_counts_where_its_message_has_none(
    declared: float | None, planned: float | None
) -> None:
    a100 = GpuClass("a100", default_time_limit=10.0, max_time_limit=60.0)
    assert read(message()).planned_limit(a100, declared) == planned
    assert read(message(timelimit=[5, None])).planned_limit(a100, declared) is None
    container = read(message("tool:1", task=CONTAINER_TASK))
    assert container.planned_limit(a100, declared) is None, "it has no code that declares one"


def test_errbacks_and_chords_need_the_application() -> None:
    assert read(message(embed={"errbacks": [{}]})).needs_app
    assert read(message(embed={"chord": {}})).needs_app
    assert not read(message(embed={"chain": [{}], "callbacks": [{}]})).needs_app


def test_a_container_job_has_the_image_of_its_arguments() -> None:
    found = read(message("tool:1", ["run"], task=CONTAINER_TASK, gpu={"image": "shop:1"}))
    assert (found.image, found.container) == ("tool:1", {"command": ["run"]})


def test_stamps_are_lists_of_text() -> None:
    found = read(message(stamped_headers=["who", "run", "none"], stamps={"who": "me", "run": [1]}))
    assert found.stamps == {"who": ["me"], "run": ["1"]}


@pytest.mark.parametrize("task_id", [None, "", 7, "a\0", "\ud800", "x" * 513])
def test_a_message_without_a_task_id_has_no_identity(task_id: object) -> None:
    with pytest.raises(MalformedMessage, match="is not a task id; send Celery's header 'id'"):
        identify(message(id=task_id))


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"task": ""}, "is not a task name"),
        ({"gpu": {"memory": "much"}}, "is not an amount of memory"),
        ({"gpu": {"colour": "red"}}, "is unknown"),
        ({"eta": "soon"}, "is not a time"),
        ({"timelimit": [-1, None]}, "is not a number of seconds"),
    ],
)
def test_a_wrong_header_is_refused(headers: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidJob, match=error):
        read(message(**headers))


def test_a_refused_job_keeps_only_its_identity() -> None:
    packed = message(shadow=["no", "text"], retries=2, gpu={"tenant": "vision"}, eta="soon")
    job = identify(packed).refused("refused", "exclusive", trusted=False)
    assert (job.delivery, job.task, job.name, job.tenant) == ("one~2", "shop.train", "", None)
    assert (job.eta, job.needs_app) == (None, False)
    nameless = identify(message(task=7)).refused("refused", "exclusive", trusted=True)
    assert (nameless.task, nameless.needs_app) == ("unknown", True)


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"stamped_headers": 7}, "stamped_headers=7 is not a list; "),
        ({"stamped_headers": {"a": 1}}, "stamped_headers={'a': 1} is not a list; "),
        ({"stamped_headers": [["a"]], "stamps": {}}, "stamped_headers=['a'] is no name; "),
        ({"stamped_headers": ["a"], "stamps": ["a"]}, "stamps=['a'] is not an object; "),
    ],
)
def test_stamps_of_a_wrong_shape_are_refused_by_name(headers: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidJob, match=re.escape(words)):
        read(message(**headers))


@pytest.mark.parametrize("key", [7, ["gpu.t4"], {"a": 1}])
def test_a_routing_key_that_is_no_text_is_refused_by_name(key: Any) -> None:
    packed = message()
    packed["delivery_info"]["routing_key"] = key
    with pytest.raises(InvalidJob, match=re.escape(f"queue={str(key)!r} is not the name of a")):
        read(packed)


def test_stamps_in_a_form_of_kombu_are_those_of_their_revoke() -> None:
    stamp = {"__type__": "uuid", "__value__": {"hex": "0" * 32}}
    found = read(message(stamped_headers=["by"], stamps={"by": [stamp, 7]}))
    assert found.stamps == {"by": ["00000000-0000-0000-0000-000000000000", "7"]}


def test_a_worker_gets_a_header_as_its_sender_had_it() -> None:
    sent = {
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "by": [uuid.UUID(int=7)],
        "odd": {"__type__": "no"},
    }
    wire = json.loads(dumps(sent)) | {"bad": {"__type__": "zz", "__value__": 7}}
    found = unpack(message(**wire)).headers
    assert {name: found[name] for name in sent} == sent
    assert found["bad"] == wire["bad"]
