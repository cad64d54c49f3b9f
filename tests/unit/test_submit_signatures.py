"""``gpuqueue.run(...)``: an ordinary Celery signature, refused where it is written when it cannot
be.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from celery import Celery, chain, current_app, signature

import gpuqueue
from gpuqueue.model.container import CONTAINER_TASK, parse_container

APP = Celery("signatures", broker="memory://", backend="cache+memory://", set_as_current=False)


def test_it_says_what_is_given_and_what_the_dispatcher_reads() -> None:
    made = gpuqueue.run("a:1", ["x"], args=["y"], env={"N": 3}, working_dir="/data", app=APP)
    assert made.task == CONTAINER_TASK
    said = {"command": ["x"], "args": ["y"], "env": {"N": "3"}, "working_dir": "/data"}
    assert made.kwargs == {"image": "a:1", **said}
    assert parse_container(made.args, made.kwargs) == ("a:1", said)


def test_what_is_left_out_is_not_sent() -> None:
    assert gpuqueue.run("a:1", app=APP).kwargs == {"image": "a:1"}


def test_it_is_set_and_chained_as_any_other_and_takes_no_result_of_the_one_before() -> None:
    first = gpuqueue.run("a:1", app=APP).set(**gpuqueue.gpu("t4", isolation="shared"))
    assert first.options["queue"] == "gpu.t4.shared"
    linked = chain(first, gpuqueue.run("b:1", app=APP).set(queue="gpu.t4"))
    assert [task.kwargs["image"] for task in linked.tasks] == ["a:1", "b:1"]
    assert all(task.immutable for task in linked.tasks)


def test_it_is_json_and_comes_back_from_it() -> None:
    made = gpuqueue.run("a:1", ("x", "y"), env={"N": 0.5}, app=APP).set(**gpuqueue.gpu("t4"))
    again = signature(json.loads(json.dumps(made)), app=APP)
    assert json.dumps(again) == json.dumps(made)
    assert again.immutable


def test_without_an_app_the_current_one_sends_it() -> None:
    made = gpuqueue.run("a:1").set(**gpuqueue.gpu("t4"))
    before = current_app._get_current_object()
    with (
        Celery("current", broker="memory://", set_as_current=True) as app,
        app.connection_for_read() as connection,
    ):
        try:
            sent = made.apply_async()
            queue = connection.SimpleQueue("gpu.t4")
            message = queue.get(timeout=5)
            queue.close()
        finally:
            before.set_current()
    assert (message.headers["id"], message.headers["task"], message.headers["gpu"]) == (
        sent.id,
        CONTAINER_TASK,
        {},
    )
    assert message.payload[:2] == [[], {"image": "a:1"}]


def test_what_cannot_be_is_refused_where_it_is_written() -> None:
    with pytest.raises(
        gpuqueue.InvalidJob,
        match=r"gpuqueue\.run command='nvidia-smi -L' is one text; give a list of words",
    ):
        gpuqueue.run("a:1", "nvidia-smi -L")
    with pytest.raises(
        gpuqueue.InvalidJob, match=r"gpuqueue\.run working_dir='data' is not an absolute path"
    ):
        gpuqueue.run("a:1", working_dir="data")


def test_errors_that_results_raise_are_public() -> None:
    names = (
        "ContainerFailed HostOutOfMemory Evicted Preempted NodeLost PodDeleted ImageUnusable"
        " Unschedulable QuotaExceeded"
    )
    assert set(names.split()) <= set(gpuqueue.__all__)
    assert all(
        issubclass(getattr(gpuqueue, name), gpuqueue.GpuQueueError) for name in names.split()
    )


def test_importing_the_package_loads_neither_celery_nor_a_client() -> None:
    heavy = ("celery", "redis", "kubernetes", "msgspec", "pydantic", "click")
    code = f"import sys, gpuqueue; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("[]\n", "")
