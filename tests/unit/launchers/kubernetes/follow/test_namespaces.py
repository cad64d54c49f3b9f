"""Several namespaces: what is unknown of one concerns its classes only."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.launchers.base import LauncherUnavailable
from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.follow.namespaces import Namespaces
from gpuqueue.launchers.kubernetes.manifest.names import Instance

CLASSES = {"t4": "own", "team": "a", "beside": "a", "other": "b"}


class Api:
    """The requests to a namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace, self.deleted = namespace, list[str]()
        self.unreachable = False

    def within(self, namespace: str) -> Api:
        return Api(namespace)

    def delete_job(self, name: str) -> bool:
        if self.unreachable:
            raise ApiError("no answer")
        self.deleted.append(name)
        return True


class Followed:
    """The follower of a namespace: it has one attempt, or knows nothing."""

    sight: Any = None
    pods: Any = None

    def __init__(self, api: Any) -> None:
        self.api, self.is_behind, self.fails = api, False, False
        self.asked, self.checked = 0, 0
        self.silent = {(f"class of {api.namespace}", "node-a"): 1}

    def list(self) -> list[Any]:
        self.asked += 1
        if self.is_behind or self.fails:
            raise LauncherUnavailable("pods unknown")
        return [self.api.namespace]

    def end_of(self, instance: str) -> Any:
        if self.fails:
            raise LauncherUnavailable("pods unknown")
        return f"end of {instance}"

    def before_stop(self, job: str) -> None:
        """It has no log."""

    def delete(self, job: str) -> bool:
        return bool(self.api.delete_job(job))

    def check(self, now: float) -> None:
        self.checked += 1
        if self.fails:
            raise ValueError("broken")

    def lead(self, leads: bool) -> None:
        """It follows the pods."""


class Elsewhere:
    """Jobs in namespaces of before."""

    def end_of(self, instance: Instance) -> Any:
        return "elsewhere"

    def stop(self, instance: Instance) -> bool:
        return False


@pytest.fixture
def made() -> dict[str, Followed]:
    return {}


@pytest.fixture
def several(made: dict[str, Followed]) -> Any:
    def follow(api: Any) -> Any:
        made[api.namespace] = Followed(api)
        return made[api.namespace]

    api: Any = Api("own")
    elsewhere: Any = Elsewhere()
    return Namespaces(api, CLASSES, follow, elsewhere)


def test_each_namespace_is_followed_once(several: Any, made: dict[str, Followed]) -> None:
    assert sorted(made) == ["a", "b", "own"]
    assert several.list() == ["own", "a", "b"] and several.unknown == set()
    assert several.end_of("a/job/uid") == "end of a/job/uid"
    assert several.end_of("before/job") == "elsewhere"
    assert several.stop("b/job") is True and made["b"].api.deleted == ["job"]
    assert several.stop("before/job") is False
    assert several.silent == {(f"class of {each}", "node-a"): 1 for each in made}


def test_an_unknown_namespace_leaves_the_others_as_they_are(
    several: Any, made: dict[str, Followed], caplog: pytest.LogCaptureFixture
) -> None:
    made["a"].is_behind = True
    for _ in range(3):
        assert several.list() == ["own", "b"]
        assert several.unknown == {"team", "beside"}
    assert made["a"].asked == 1, "each further one would wait"
    assert [each.message for each in caplog.records if "namespace a" in each.message] == [
        "namespace a: pods unknown; its classes are not repaired"
    ]
    assert several.end_of("a/job") is None
    with pytest.raises(LauncherUnavailable):
        several.stop("a/job")
    made["a"].is_behind = False
    assert several.list() == ["own", "a", "b"] and several.unknown == set()


def test_an_error_of_a_namespace_of_a_class_is_no_end(
    several: Any, made: dict[str, Followed]
) -> None:
    made["a"].fails = True
    assert several.end_of("a/job") is None
    several.check(1.0)
    assert [made[name].checked for name in ("own", "a", "b")] == [1, 1, 1]


def test_nothing_is_told_while_the_own_namespace_is_unknown(
    several: Any, made: dict[str, Followed]
) -> None:
    made["own"].is_behind = made["own"].fails = True
    with pytest.raises(LauncherUnavailable):
        several.list()
    for instance in ("own/job", "before/job", "not one of Kubernetes"):
        with pytest.raises(LauncherUnavailable):
            several.stop(instance)


def test_a_deletion_without_an_answer_is_tried_again(
    several: Any, made: dict[str, Followed]
) -> None:
    made["b"].api.unreachable = True
    with pytest.raises(LauncherUnavailable, match="no answer"):
        several.delete("b", "job")
