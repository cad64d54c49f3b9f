"""Whole logs in a directory or a bucket, beside the end of each in Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import gpuqueue
from gpuqueue import gpu
from gpuqueue.launchers.local import output_file, runtime
from gpuqueue.launchers.local.identity import Instance
from gpuqueue.store.whole_logs import WholeLogNotes
from tests.doubles.kubernetes import Node
from tests.integration.kubernetes.test_sidecars import injected
from tests.support.cluster_stack import ClusterStack
from tests.support.nodes import APPS
from tests.support.s3_server import BUCKET, s3_server
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120), pytest.mark.slow]
GPU = "gpu.t4.shared"
LINES = "for n in range(20_000): print('line', n, flush=n == 0)"
PRINTED = "".join(f"line {n}\n" for n in range(20_000))


def call(stack: Stack, *arguments: str, **env: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "gpuqueue.cli", *arguments],
        env={**os.environ, **stack.env, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def whole(stack: Stack, job_id: str, *arguments: str) -> str:
    """What the command prints, once it is written."""
    found = until(
        lambda: (answer := call(stack, "logs", job_id, "--whole", *arguments))[0] == 0 and answer,
        PATIENCE,
        "it is written",
        lambda: str(call(stack, "logs", job_id, "--whole", *arguments)) + str(stack.logs()),
    )
    return found[1]


@pytest.fixture(params=["local", "kubernetes"])
def sunk(
    request: pytest.FixtureRequest, tmp_path: Path, running_stacks: list[Stack]
) -> Iterator[Stack]:
    """A stack whose logs go to ``sink`` in its directory."""
    env = {"GPUQUEUE_LOG_SINK": str(tmp_path / "stack" / "sink")}
    made = (
        Stack(tmp_path / "stack", env)
        if request.param == "local"
        else ClusterStack(tmp_path / "stack", env)
    )
    with listed(running_stacks, made):
        made.dispatcher()
        yield made


def test_whole_log_is_kept_and_read(sunk: Stack, key: str) -> None:
    sunk.go(key)
    result = sunk.shop.say.apply_async((key,), queue=GPU)
    assert result.get(PATIENCE) == key
    text = whole(sunk, result.id)
    assert f"says {key}\nhas said {key}\n" in text
    [path] = (sunk.directory / "sink" / "t4").glob("20*/*.log")
    assert path.name == f"{result.id}~1.log" and path.read_text() == text
    told = json.loads(path.with_suffix(".json").read_text())
    assert (told["id"], told["bytes"], told["attempt"]) == (result.id, len(text), 1)
    shown = json.loads(whole(sunk, result.id, "--json"))
    assert shown["log"] == text and shown["name"] == f"t4/{path.parent.name}/{path.name}"
    assert not WholeLogNotes(sunk.client).all_due(["t4"])
    status, _, err = call(sunk, "logs", result.id, "--whole", GPUQUEUE_LOG_SINK="")
    assert status != 0 and "GPUQUEUE_LOG_SINK is not set; set it as for the dispatchers" in err
    status, out, _ = call(sunk, "doctor", "--json")
    checks = {each["name"]: each for each in json.loads(out)["checks"]}
    assert checks["log sink"]["level"] == "OK" and "whole logs" not in checks
    (sunk.directory / "file").touch()
    status, out, _ = call(sunk, "doctor", "--json", GPUQUEUE_LOG_SINK=str(sunk.directory / "file"))
    checks = {each["name"]: each for each in json.loads(out)["checks"]}
    assert status == 1 and checks["log sink"]["level"] == "FAIL"


@pytest.fixture
def cluster(tmp_path: Path, running_stacks: list[Stack]) -> Iterator[Callable[..., Any]]:
    """Makes a stack in a cluster whose logs go to ``sink`` in its directory."""

    @contextmanager
    def make(**env: str) -> Iterator[ClusterStack]:
        sink = {"GPUQUEUE_LOG_SINK": str(tmp_path / "stack" / "sink")}
        nodes = [Node("node-a", resources={"nvidia.com/gpu": "2"})]
        made = ClusterStack(tmp_path / "stack", sink | env, nodes=nodes)
        with listed(running_stacks, made):
            made.dispatcher()
            yield made

    yield make


def program(stack: Stack, text: str) -> Any:
    made = gpuqueue.run("shop:1", ["python3", "-c", text], app=stack.app)
    return made.apply_async(**gpu("t4", isolation="shared"))


def test_whole_logs_of_kept_cancelled_and_long_containers(cluster: Callable[..., Any]) -> None:
    with cluster() as stack:
        result = program(stack, LINES)
        result.get(PATIENCE)
        assert whole(stack, result.id) == PRINTED
        with injected(stack):  # its pod is deleted at once
            kept = program(stack, LINES)
            kept.get(PATIENCE)
            assert whole(stack, kept.id) == PRINTED
        held = program(stack, f"{LINES}\nimport sys, time; sys.stdout.flush(); time.sleep(600)")
        stack.in_state(held.id, "running")
        pod = stack.pod_name(held.id)
        api = stack.cluster
        until(lambda: "line 19999" in api.log(pod), PATIENCE, "it has printed")
        assert call(stack, "cancel", held.id)[0] == 0
        assert whole(stack, held.id) == PRINTED


def test_each_job_of_a_warm_pod_has_its_whole_log(cluster: Callable[..., Any]) -> None:
    with cluster(GPUQUEUE_WARM_SECONDS="3", T4_SHARED_SLOTS="1") as stack:
        results = []
        for key in ("one", "two", "three"):
            stack.go(key)
            results.append(stack.shop.say.apply_async((key,), queue=GPU))
            assert results[-1].get(PATIENCE) == key
            stack.idle()
        assert len(stack.cluster.pods()) == 1
        for key, result in zip(("one", "two", "three"), results, strict=True):
            text = whole(stack, result.id)
            assert f"says {key}\n" in text and text.count("has said") == 1


def test_each_job_of_a_process_has_its_whole_log(
    tmp_path: Path, running_stacks: list[Stack]
) -> None:
    env = {"GPUQUEUE_LOG_SINK": str(tmp_path / "sink"), "T4_SHARED_SLOTS": "1"}
    with listed(running_stacks, Stack(tmp_path / "stack", env)) as stack:
        stack.dispatcher()
        keys = ["one", "two", "three"]
        results = [
            stack.shop.say.apply_async((key,), **gpu("t4", isolation="shared", reuse=9))
            for key in keys
        ]
        for result in results[1:]:
            stack.in_state(result.id, "waiting")
        for key in keys:
            stack.go(key)
        assert [each.get(PATIENCE) for each in results] == keys
        assert stack.known(results[2].id)["reused"] == 3
        for key, result in zip(keys, results, strict=True):
            text = whole(stack, result.id)
            assert f"says {key}\n" in text and text.count("has said") == 1


@pytest.mark.parametrize("made", [Stack, ClusterStack], ids=["local", "kubernetes"])
def test_bucket_that_is_away_costs_nothing_and_no_log(
    tmp_path: Path, running_stacks: list[Stack], made: type[Stack]
) -> None:
    with s3_server() as s3:
        s3.stop()
        env = {**s3.env, "GPUQUEUE_LOG_SINK": f"s3://{BUCKET}/team"}
        with listed(running_stacks, made(tmp_path / "stack", env)) as stack:
            node, notes = stack.dispatcher(), WholeLogNotes(stack.client)
            first = stack.shop.echo.apply_async(("first",), queue=GPU)
            assert first.get(PATIENCE) == "first"
            stack.idle()
            until(lambda: any(each.error for each in notes.all_due(["t4"]).values()), PATIENCE)
            status, _, err = call(stack, "logs", first.id, "--whole")
            assert status == 1 and "is not in s3://logs/team yet" in err and "connect" in err
            node.kill(signal.SIGKILL)
            s3.start()
            stack.dispatcher()
            assert "succeeded in" in whole(stack, first.id)
            [name] = [each for each in s3.names() if each.endswith(f"/{first.id}~1.log")]
            assert name.startswith("team/t4/20")


#: Prints 3000 lines in three seconds.
COUNTS = """
import os, time
from celery import Celery
URL = os.environ["CELERY_BROKER_URL"]
app = Celery("counts", broker=URL, backend=URL)

@app.task
def count(go):
    print("ready", flush=True)
    while not os.path.exists(go):
        time.sleep(0.01)
    for n in range(3000):
        print("line", n, flush=True)
        if n % 30 == 0:
            time.sleep(0.03)
"""


def test_followed_log_has_each_line_once_while_its_file_is_rotated(
    tmp_path: Path, running_stacks: list[Stack]
) -> None:
    folder = tmp_path / "stack"
    env = {"PYTHONPATH": os.pathsep.join([str(folder), str(APPS)])}
    with listed(running_stacks, Stack(folder, env, app="counts")) as stack:
        (folder / "counts.py").write_text(COUNTS)
        stack.dispatcher()
        result = stack.app.send_task("counts.count", [str(folder / "go")], queue=GPU)
        command = [sys.executable, "-m", "gpuqueue.cli", "logs", "-f", result.id]
        record = stack.in_state(result.id, "running")
        environ = {**os.environ, **stack.env}
        with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as reader:
            nonce = Instance.parse(record["instance"]).nonce
            base = runtime.base(environ)
            [path] = base.glob(f"*/output/{nonce}")
            assert reader.stdout is not None
            assert any(line == "ready\n" for line in reader.stdout)  # read up to it
            (folder / "go").touch()
            while reader.poll() is None:
                output_file.bound(path, 8192)
                time.sleep(0.01)
            found = [each for each in reader.stdout.read().splitlines() if each[:5] == "line "]
        assert found == [f"line {n}" for n in range(3000)]
        assert output_file.begin(path) > 8192
