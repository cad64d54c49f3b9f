"""Which name a dispatcher gives to its Jobs."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from gpuqueue.errors import ClusterNotReady
from gpuqueue.launchers.kubernetes.api.errors import Forbidden, Unreachable
from gpuqueue.launchers.kubernetes.assemble import owner_of
from gpuqueue.launchers.kubernetes.manifest.names import default_owner

URL = "redis://h/0"
CA, UID = "https://h ca", "uid 7"


class Kept:
    """What Redis knows, without Redis."""

    def __init__(self, others: list[str], **kept: str) -> None:
        self.kept = {mark.replace("_", " "): owner for mark, owner in kept.items()}
        self._others = others

    def known(self, marks: list[str]) -> str | None:
        return next((self.kept[each] for each in marks if each in self.kept), None)

    def keep(self, marks: list[str], owner: str) -> str:
        for each in marks:
            self.kept.setdefault(each, owner)
        return self.known(marks) or owner

    def others(self) -> list[str]:
        return sorted({*self._others, *self.kept.values()})


class Cluster:
    """An API server: the UID of kube-system, or an error; owner → its Jobs, or an error."""

    namespace, identity = "ml", CA

    def __init__(self, uid: object = "7", **jobs: object) -> None:
        self._uid, self._jobs = uid, jobs
        self.elsewhere: dict[str, Cluster] = {}

    def get_namespace(self, name: str) -> Any:
        assert name == "kube-system"
        return SimpleNamespace(metadata=SimpleNamespace(uid=given(self._uid)))

    def within(self, namespace: str) -> Cluster:
        return self.elsewhere[namespace]

    def list_jobs(self, selector: str) -> tuple[Any, str]:
        owner = selector.rpartition("=")[2]
        return given(self._jobs.get(owner, [])), "1"


def given(found: Any) -> Any:
    if isinstance(found, Exception):
        raise found
    return found


def decide(
    cluster: Cluster,
    kept: Kept,
    owner: str | None = None,
    namespaces: Iterable[str] = (),
    *,
    keep: bool = True,
) -> str:
    settings: Any = SimpleNamespace(owner=owner)
    api: Any = cluster
    owners: Any = kept
    return owner_of(api, settings, URL, owners, namespaces, keep=keep)


DEFAULT = default_owner("ml", CA, URL)
REFUSED, AWAY = Forbidden("no", status=403), Unreachable("away")
NO_ROLE = Forbidden("RBAC: role not found", status=403)


def test_the_first_dispatcher_makes_the_name_and_keeps_it_by_all_marks() -> None:
    kept = Kept([])
    assert decide(Cluster(), kept, keep=False) == DEFAULT
    assert kept.kept == {}
    assert decide(Cluster(), kept) == DEFAULT
    assert kept.kept == {UID: DEFAULT, CA: DEFAULT}


def test_the_name_that_an_operator_sets_counts() -> None:
    kept = Kept([], uid_7="kept")
    assert decide(Cluster(), kept, "theirs") == "theirs"
    assert kept.kept == {UID: "kept"}


@pytest.mark.parametrize("uid", ["7", REFUSED, AWAY])
def test_a_known_cluster_keeps_its_name(uid: object) -> None:
    kept = Kept(["other"])
    kept.kept = {CA: "kept"} if isinstance(uid, Exception) else {UID: "kept", CA: "other"}
    assert decide(Cluster(uid), kept) == "kept"


@pytest.mark.parametrize("uid", ["8", REFUSED])
def test_a_cluster_under_an_unknown_name_is_known_by_its_jobs(uid: object) -> None:
    kept = Kept(["another", "before"])
    assert decide(Cluster(uid, before=["a Job"], another=REFUSED), kept) == "before"
    assert kept.kept[CA] == "before"


@pytest.mark.parametrize("own", [[], REFUSED])
def test_a_cluster_is_known_by_jobs_of_a_class_in_its_namespace(own: object) -> None:
    kept, cluster = Kept(["before"]), Cluster("8", before=own)
    cluster.elsewhere = {"team": Cluster(before=["a Job"]), "other": Cluster(before=NO_ROLE)}
    assert decide(cluster, kept, namespaces=["team", "other", "ml"]) == "before"


def test_a_cluster_that_runs_no_known_job_is_a_new_one() -> None:
    assert decide(Cluster("8"), Kept(["before"])) == DEFAULT


@pytest.mark.parametrize("cluster", [Cluster(AWAY), Cluster(REFUSED, before=AWAY)])
def test_an_unknown_cluster_that_is_away_is_waited_for(cluster: Cluster) -> None:
    kept = Kept(["before"])
    with pytest.raises(ClusterNotReady, match="away"):
        decide(cluster, kept)
    assert kept.kept == {}


def test_the_first_cluster_of_a_queue_need_not_answer() -> None:
    assert decide(Cluster(AWAY), Kept([])) == DEFAULT
