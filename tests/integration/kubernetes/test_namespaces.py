"""Classes with a namespace for themselves: their Jobs are launched, followed and ended there."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from gpuqueue.errors import HostOutOfMemory
from gpuqueue.model.place import Place
from gpuqueue.model.record import Record
from gpuqueue.store import places as stored
from gpuqueue.store.keys import class_key
from tests.doubles.kubernetes import Node
from tests.integration.kubernetes.test_held import RULES
from tests.support.cluster_stack import ClusterStack
from tests.support.endpoints import Endpoint, free_port
from tests.support.stack import Stack, listed
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
OWN, TEAM = "gpu.t4.shared", "gpu.team.shared"
PLACE = "team-a"
CLASSES_FILE = """
[classes.t4]
shared_slots = 4
[classes.team]
shared_slots = 4
namespace = "team-a"
[classes.beside]
shared_slots = 1
namespace = "team-a"
"""


class Divided(ClusterStack):
    """A stack with classes in two namespaces, of which the second one may be missing."""

    def __init__(self, directory: Path, *, made: bool = True, **cluster: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "classes.toml"
        file.write_text(CLASSES_FILE)
        env = {"GPUQUEUE_CLASSES_FILE": str(file), "T4_SHARED_SLOTS": "0"}
        super().__init__(directory, env | {"GPUQUEUE_WARM_SECONDS": "0"}, **cluster)
        if made:
            self.divide()

    def divide(self) -> None:
        """Make the second namespace, with the Secret of its executors."""
        self.cluster.add_namespace(PLACE)
        self.cluster.secret("gpuqueue", {"CELERY_BROKER_URL": self.url}, PLACE)

    def one(self, result: AsyncResult) -> Record:
        """The newest delivery of a job, of either class."""
        return self.reader.find(result.id, ["t4", "team", "beside"]) or {}

    def namespace(self, result: AsyncResult) -> str:
        return str(self.one(result).get("instance", "")).partition("/")[0]

    def free(self, gpu_class: str = "team") -> None:
        """No attempt of the class holds a slot."""
        until(lambda: not self.reader.holders(gpu_class), PATIENCE, "all slots are free")

    def held(self, gpu_class: str) -> dict[str, Place]:
        places = stored.set_aside(stored.of(self.client, gpu_class))
        return {place.kind: place for place in places}


@pytest.fixture(scope="module")
def divided(
    tmp_path_factory: pytest.TempPathFactory, running_stacks: list[Stack]
) -> Iterator[Divided]:
    nodes = [Node("node-a"), Node("node-b")]
    with listed(running_stacks, Divided(tmp_path_factory.mktemp("two"), nodes=nodes)) as made:
        made.dispatcher()
        yield made


@pytest.fixture
def stacks(tmp_path: Path, running_stacks: list[Stack]) -> Iterator[Callable[..., Divided]]:
    made: list[Divided] = []

    def make(**options: Any) -> Divided:
        made.append(Divided(tmp_path / "own", **options))
        running_stacks.append(made[-1])
        return made[-1]

    yield make
    for each in made:
        running_stacks.remove(each)
        each.close()


def test_jobs_run_in_the_namespace_of_their_class(divided: Divided) -> None:
    results = {
        name: divided.shop.add.apply_async((1, 2), queue=f"gpu.{name}.shared")
        for name in ("t4", "team", "beside")
    }
    assert [result.get(PATIENCE) for result in results.values()] == [3, 3, 3]
    found = {name: divided.namespace(result) for name, result in results.items()}
    assert found == {"t4": "default", "team": PLACE, "beside": PLACE}
    for name in results:
        divided.free(name)


def test_a_job_of_another_namespace_is_cancelled(divided: Divided, key: str) -> None:
    result = divided.shop.hold.apply_async((key,), queue=TEAM)
    divided.told(key)
    job = divided.one(result)["instance"].split("/")[1]
    assert divided.cluster.job(job, PLACE)
    result.revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        result.get(PATIENCE)
    divided.free()
    until(lambda: divided.cluster.job(job, PLACE) is None, PATIENCE, "its Job is deleted")


def test_the_finish_of_a_job_runs_where_its_secret_is(divided: Divided, key: str) -> None:
    result = divided.shop.recorded.apply_async((key, "hold"), queue=TEAM)
    assert [divided.told(key) for _ in range(3)][:2] == ["before_start", "__call__"]
    job = divided.one(result)["instance"].split("/")[1]
    pod = divided.cluster.pod_of(job, PLACE)
    assert pod is not None
    divided.cluster.faults.oom_kill(pod["metadata"]["name"])
    with pytest.raises(HostOutOfMemory):
        result.get(PATIENCE)
    assert divided.told(key) == "on_failure HostOutOfMemory"
    made = [each["metadata"] for each in divided.cluster.pods()]
    assert {each["namespace"] for each in made if "gpu-finish-" in each["name"]} == {PLACE}
    divided.free()


def test_a_container_job_of_another_namespace_keeps_its_log(divided: Divided) -> None:
    call = {"image": "shop:1", "command": ["python3", "-c", "print('from the team')"]}
    result = divided.app.send_task("gpuqueue.run", kwargs=call, queue=TEAM)
    assert "from the team" in result.get(PATIENCE)["log"]
    assert divided.namespace(result) == PLACE
    divided.free()


@pytest.mark.slow
def test_a_lost_node_is_told_and_costs_no_job_of_another_namespace(
    divided: Divided, key: str
) -> None:
    result = divided.shop.hold.apply_async((key,), queue=TEAM)
    divided.told(key)
    node = divided.one(result)["node"]
    divided.cluster.faults.node_lost(node, evict_after=0.0)
    try:
        until(
            lambda: divided.one(result).get("wait") == "NODE_SILENT",
            PATIENCE,
            "its node is silent",
            lambda: str(divided.one(result)),
        )
        divided.cluster.faults.node_deleted(node)
        divided.told(key)
        assert divided.one(result)["attempt"] == 2
        divided.go(key, 2)  # the process on the lost node runs on
        assert result.get(PATIENCE) == key
    finally:
        divided.cluster.faults.node_back(node)
    divided.free()


@pytest.mark.slow
def test_the_next_leader_adopts_the_jobs_of_every_namespace(
    stacks: Callable[..., Divided], key: str
) -> None:
    stack = stacks()
    first = stack.dispatcher("first")
    keys = {OWN: f"{key}-own", TEAM: f"{key}-team", "cancelled": f"{key}-cancelled"}
    results = {
        name: stack.shop.hold.apply_async((each,), queue=name if name != "cancelled" else TEAM)
        for name, each in keys.items()
    }
    for each in keys.values():
        stack.told(each)
    in_hand = f"gpuqueue:1:{{{TEAM}}}:texts"  # a message that is still there would come again
    until(lambda: not stack.client.hlen(in_hand), PATIENCE, "no message in hand", first.logs)
    first.kill(signal.SIGKILL)
    stack.client.delete(class_key("team", "holders_shared"), class_key("team", "jobs"))
    second = stack.dispatcher("second")
    stack.go(keys[OWN])
    stack.go(keys[TEAM])
    assert [results[name].get(PATIENCE) for name in (OWN, TEAM)] == [keys[OWN], keys[TEAM]]
    results["cancelled"].revoke(terminate=True)
    until(lambda: results["cancelled"].state == "REVOKED", PATIENCE, "cancelled", second.logs)
    for name in ("t4", "team"):
        stack.free(name)
    assert {stack.one(each)["attempt"] for each in results.values()} == {1}


@pytest.mark.slow
def test_a_class_without_its_namespace_is_held_until_it_is_there(
    stacks: Callable[..., Divided],
) -> None:
    stack = stacks(made=False)
    stack.dispatcher()
    results = [stack.shop.add.apply_async((n, 1), queue=TEAM) for n in range(3)]
    until(lambda: "launch" in stack.held("team"), PATIENCE, "the class is held")
    assert 'namespaces "team-a" not found' in stack.held("team")["launch"].error
    assert stack.shop.add.apply_async((1, 1), queue=OWN).get(PATIENCE) == 2
    assert stack.held("t4") == {}
    stack.divide()
    assert [result.get(PATIENCE) for result in results] == [1, 2, 3]


@pytest.mark.slow
def test_missing_rights_in_one_namespace_stop_its_classes_only(
    stacks: Callable[..., Divided], key: str
) -> None:
    stack = stacks()
    places = ["default"]
    token = stack.cluster.user("system:serviceaccount:default:dispatcher", RULES, places)
    endpoint = Endpoint(free_port())
    env = {
        "KUBECONFIG": str(stack.cluster.kubeconfig_for(token)),
        "GPUQUEUE_METRICS_PORT": str(endpoint.port),
    }
    first = stack.dispatcher("first", env={"GPU_OWNER": "one"})
    held = stack.shop.hold.apply_async((key,), queue=TEAM)
    own = stack.shop.hold.apply_async((f"{key}-own",), queue=OWN)
    stack.told(key)
    stack.told(f"{key}-own")
    first.kill(signal.SIGKILL)
    second = stack.dispatcher("second", env=env | {"GPU_OWNER": "one"})
    stack.go(f"{key}-own")
    assert own.get(PATIENCE) == f"{key}-own"
    stack.free("t4")
    waits = stack.shop.add.apply_async((1, 1), queue=TEAM)
    until(lambda: "launch" in stack.held("team"), PATIENCE, "the class is held", second.logs)
    assert 'in the namespace "team-a"' in stack.held("team")["launch"].error
    assert stack.shop.add.apply_async((1, 1), queue=OWN).get(PATIENCE) == 2

    def is_blind() -> bool:
        status, text = endpoint.ask("/readyz")
        return status == 503 and "the cluster state is unknown" in text

    until(is_blind, PATIENCE, "it is not ready, and says why", second.logs)
    assert second.logs().count("its classes are not repaired") == 1
    places.append(PLACE)
    stack.go(key)
    assert [held.get(PATIENCE), waits.get(PATIENCE)] == [key, 2]
    stack.free()
    until(lambda: endpoint.ask("/readyz")[0] == 200, PATIENCE, "all is known")
    assert stack.one(held)["attempt"] == 1


@pytest.mark.slow
def test_jobs_go_on_when_their_class_moves_to_another_namespace(
    stacks: Callable[..., Divided], key: str
) -> None:
    stack = stacks()
    first = stack.dispatcher("first")
    held = stack.shop.hold.apply_async((key,), queue=TEAM)
    stack.told(key)
    first.kill(signal.SIGKILL)
    file = Path(stack.env["GPUQUEUE_CLASSES_FILE"])
    file.write_text(file.read_text().replace(f'namespace = "{PLACE}"\n', ""))
    stack.dispatcher("second")
    later = stack.shop.add.apply_async((1, 1), queue=TEAM)
    assert later.get(PATIENCE) == 2 and stack.namespace(later) == "default"
    stack.go(key)
    assert held.get(PATIENCE) == key and stack.namespace(held) == PLACE
    stack.free()
