"""What a dispatcher sends on for a container job arrives as it was sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import chord

from tests.support.cluster_stack import ClusterStack
from tests.support.stack import Stack, listed, load_application
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow]
CPU, GPU = "celery", "gpu.t4.shared"
#: Ends once a file is there.
WAITS = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.05)"


def test_types_pass_a_dispatcher_that_lacks_them(
    tmp_path: Path, running_stacks: list[Stack]
) -> None:
    with listed(running_stacks, ClusterStack(tmp_path / "stack", app="parcels")) as stack:
        stack.dispatcher()
        stack.cpu_worker()
        parcels, go = load_application("parcels", stack.url), tmp_path / "go"
        fruit = parcels.Fruit("pear", 3)
        member = parcels.echo.s(fruit).set(queue=CPU, task_id="member")
        call = {"image": "shop:1", "command": ["python3", "-c", WAITS, str(go)]}
        run = parcels.app.signature("gpuqueue.run", kwargs=call, queue=GPU, immutable=True)
        found = chord([member, run], parcels.echo.s().set(queue=CPU)).apply_async()
        until(parcels.app.AsyncResult("member").ready, PATIENCE, "only the container is left")
        go.touch()
        assert found.get(PATIENCE) == [fruit, {"exit_code": 0, "message": "", "log": ""}]

        link = parcels.pass_on.s("linked", fruit).set(queue=CPU)
        run.apply_async(link=link)
        told = stack.client.blpop(["told:linked"], timeout=PATIENCE)
        expected = [{"exit_code": 0, "message": "", "log": ""}, fruit]
        assert told is not None and told[1] == parcels.dumps(expected)
        parcels.app.close()
