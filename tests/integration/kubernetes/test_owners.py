"""Whose Jobs these are outlives addresses, certificates and namespaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gpuqueue.store.keys import OWNERS, class_key
from gpuqueue.store.owners import Owners
from tests.doubles.kubernetes.objects.kinds import NAMESPACES
from tests.support.cluster_stack import ClusterStack
from tests.support.command_line import run_command
from tests.support.nodes import APPS
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(120)]
GPU = "gpu.t4.shared"


@pytest.fixture
def stack(tmp_path: Path, running_stacks: list[Stack]) -> Iterator[ClusterStack]:
    env = {"GPUQUEUE_WARM_SECONDS": "0"}
    with ExitStack() as made:
        yield made.enter_context(listed(running_stacks, ClusterStack(tmp_path / "own", env)))


def without_clusters(stack: ClusterStack) -> Path:
    """A kubeconfig of a user that may not read namespaces."""
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
    token = stack.cluster.user("dispatcher", rules, [stack.cluster.namespace, "other"])
    return stack.cluster.kubeconfig_for(token)


def edited(path: Path, change: Callable[[Any], object]) -> Path:
    """Another kubeconfig, which a change has made of one."""
    config = json.loads(path.read_text())
    change(config)
    copy = path.with_name(f"edited-{path.name}")
    copy.write_text(json.dumps(config))
    return copy


def renamed_redis(stack: ClusterStack) -> dict[str, str]:
    return {"CELERY_BROKER_URL": stack.url.replace("127.0.0.1", "localhost")}


def renamed_server(stack: ClusterStack) -> dict[str, str]:
    def change(config: Any) -> None:
        cluster = config["clusters"][0]["cluster"]
        cluster["server"] = cluster["server"].replace("127.0.0.1", "localhost")

    return {"KUBECONFIG": str(edited(Path(stack.env["KUBECONFIG"]), change))}


def moved_namespace(stack: ClusterStack) -> dict[str, str]:
    stack.cluster.create(NAMESPACES, {"metadata": {"name": "other"}})
    stack.cluster.secret("gpuqueue", {"CELERY_BROKER_URL": stack.url}, "other")
    return {"GPU_JOB_NAMESPACE": "other"}


@pytest.mark.parametrize("reads", [True, False], ids=["uid", "no rights"])
@pytest.mark.parametrize("change", [renamed_redis, renamed_server, moved_namespace])
def test_slots_and_jobs_go_on_under_other_names(
    stack: ClusterStack,
    key: str,
    change: Callable[[ClusterStack], dict[str, str]],
    reads: bool,
) -> None:
    if not reads:
        stack.env["KUBECONFIG"] = str(without_clusters(stack))
    before = stack.dispatcher("before")
    held = stack.shop.hold.apply_async((key,), queue=GPU)
    over = stack.shop.hold.apply_async((f"{key}-over",), queue=GPU)
    for each in (held, over):
        stack.in_state(each.id, "running")
    before.kill(signal.SIGKILL)
    stack.go(f"{key}-over")
    after = stack.dispatcher("after", env=change(stack))
    assert over.get(PATIENCE) is not None
    until(lambda: over.id not in stack.holders(), PATIENCE, "its slot is free", after.logs)
    assert held.id in stack.holders()
    held.revoke(terminate=True)
    until(lambda: held.state == "REVOKED", PATIENCE, "it is cancelled", after.logs)
    until(lambda: not stack.holders(), PATIENCE, "no slot is held", after.logs)
    assert len(set(stack.client.hvals(OWNERS))) == 1


def test_slots_of_an_owner_that_is_gone_are_told_and_adopted(stack: ClusterStack, key: str) -> None:
    stack.dispatcher()
    held = stack.shop.hold.apply_async((key,), queue=GPU)
    record: Any = stack.in_state(held.id, "running")
    kept: list[str] = stack.client.hvals(OWNERS)  # type: ignore[assignment]
    [owner] = set(kept)
    assert record["owner"] == owner
    jobs = class_key("t4", "jobs")
    stack.client.hset(jobs, record["delivery"], json.dumps({**record, "owner": "gone"}))

    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command(arguments, env={**os.environ, "PYTHONPATH": str(APPS), **stack.env})

    assert Owners(stack.client).unowned() == {("t4", "gone"): 1}
    checks = json.loads(cli("doctor", "--json").stdout)["checks"]
    assert [each["level"] for each in checks if each["name"] == "owners"] == ["FAIL"]
    assert json.loads(cli("adopt", "--json").stdout) == [
        {"gpu_class": "t4", "owner": "gone", "slots": 1}
    ]
    assert cli("adopt", owner, "--yes").returncode == 1
    assert cli("adopt", "gone", "--by", "unknown", "--yes").returncode == 1
    assert cli("adopt", "gone", "--yes").stdout == "1 slots of t4 adopted\n"
    assert Owners(stack.client).unowned() == {}
    stack.go(key)
    assert held.get(PATIENCE) is not None
    until(lambda: not stack.holders(), PATIENCE, "its slot is free")
