"""``gpuqueue.run(...)`` returns an ordinary Celery signature, and refuses invalid arguments."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from celery import Celery, chain, current_app, signature

import gpuqueue
from gpuqueue.model.container import CONTAINER_TASK, parse_container
from tests.support.waiting import PATIENCE

APP = Celery("signatures", broker="memory://", backend="cache+memory://", set_as_current=False)


def test_signature_has_the_arguments_that_the_dispatcher_parses() -> None:
    made = gpuqueue.run("a:1", ["x"], args=["y"], env={"N": 3}, working_dir="/data", app=APP)
    assert made.task == CONTAINER_TASK
    arguments = {"command": ["x"], "args": ["y"], "env": {"N": "3"}, "working_dir": "/data"}
    assert made.kwargs == {"image": "a:1", **arguments}
    assert parse_container(made.args, made.kwargs) == ("a:1", arguments)


def test_omitted_arguments_are_not_sent() -> None:
    assert gpuqueue.run("a:1", app=APP).kwargs == {"image": "a:1"}


def test_signature_can_be_set_and_chained_and_is_immutable() -> None:
    first = gpuqueue.run("a:1", app=APP).set(**gpuqueue.gpu("t4", isolation="shared"))
    assert first.options["queue"] == "gpu.t4.shared"
    linked = chain(first, gpuqueue.run("b:1", app=APP).set(queue="gpu.t4"))
    assert [task.kwargs["image"] for task in linked.tasks] == ["a:1", "b:1"]
    assert all(task.immutable for task in linked.tasks)


def test_signature_round_trips_as_json() -> None:
    made = gpuqueue.run("a:1", ("x", "y"), env={"N": 0.5}, app=APP).set(**gpuqueue.gpu("t4"))
    again = signature(json.loads(json.dumps(made)), app=APP)
    assert json.dumps(again) == json.dumps(made)
    assert again.immutable


def test_current_app_sends_a_signature_without_an_app() -> None:
    made = gpuqueue.run("a:1").set(**gpuqueue.gpu("t4"))
    before = current_app._get_current_object()
    with (
        Celery("current", broker="memory://", set_as_current=True) as app,
        app.connection_for_read() as connection,
    ):
        try:
            sent = made.apply_async()
            queue = connection.SimpleQueue("gpu.t4")
            message = queue.get(timeout=PATIENCE)
            queue.close()
        finally:
            before.set_current()
    assert (message.headers["id"], message.headers["task"], message.headers["gpu"]) == (
        sent.id,
        CONTAINER_TASK,
        {},
    )
    assert message.payload[:2] == [[], {"image": "a:1"}]


def test_invalid_call_raises_at_once() -> None:
    with pytest.raises(
        gpuqueue.InvalidJob,
        match=r"gpuqueue\.run command='nvidia-smi -L' is a string; use a list of words",
    ):
        gpuqueue.run("a:1", "nvidia-smi -L")
    with pytest.raises(
        gpuqueue.InvalidJob, match=r"gpuqueue\.run working_dir='data' is not an absolute path"
    ):
        gpuqueue.run("a:1", working_dir="data")


def test_errors_in_results_are_public() -> None:
    names = (
        "ContainerFailed HostOutOfMemory Evicted Preempted NodeLost PodDeleted ImageUnusable"
        " Unschedulable QuotaExceeded"
    )
    assert set(names.split()) <= set(gpuqueue.__all__)
    assert all(
        issubclass(getattr(gpuqueue, name), gpuqueue.GpuQueueError) for name in names.split()
    )


def test_importing_the_package_loads_no_heavy_package() -> None:
    heavy = ("celery", "redis", "kubernetes", "msgspec", "pydantic", "click")
    code = f"import sys, gpuqueue; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("[]\n", "")
