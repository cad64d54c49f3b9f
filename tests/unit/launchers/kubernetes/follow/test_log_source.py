"""The whole log of a pod: whose part is whose, and what is known once the pod is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpuqueue.launchers.base import LogGone, NoLog
from gpuqueue.launchers.kubernetes.api.errors import ApiError, Forbidden, Invalid, NotFound
from gpuqueue.launchers.kubernetes.follow import log_source as module
from gpuqueue.launchers.kubernetes.follow.log_source import HeldLogs, PodLog, find, of_turn

LOG = (
    b"starts\nof a\nINFO this pod goes on with b#1\nof b\nINFO this pod goes on with b#12, after a"
    b" pause\nof b again\nno end"
)


class Api:
    """A pod with a log, or an error."""

    namespace = "jobs"

    def __init__(self, text: bytes = LOG, error: ApiError | None = None) -> None:
        self.text = text
        self.error = error

    def within(self, namespace: str) -> Api:
        self.namespace = namespace
        return self

    def whole_log(self, pod: str) -> Iterator[bytes]:
        if self.error:
            raise self.error
        for at in range(0, len(self.text), 7):
            yield self.text[at : at + 7]


@pytest.mark.parametrize(
    ("holder", "text"),
    [
        ("", b"starts\nof a\n"),
        ("b#1", b"of b\n"),
        ("b#12", b"of b again\nno end"),
        ("b#2", b""),
    ],
)
def test_each_attempt_of_a_pod_has_its_part(holder: str, text: bytes) -> None:
    api: Any = Api()
    assert b"".join(PodLog(api, "pod", "owner", holder).read()) == text


def test_line_without_an_end_is_passed_on_in_parts() -> None:
    parts = [b"x" * (1 << 20)] * 3
    assert [len(each) for each in of_turn(iter(parts), "")] == [2 << 20, 1 << 20]


def test_log_of_a_deleted_pod_is_what_was_held() -> None:
    api: Any = Api(b"text\n")
    held = HeldLogs(api)
    source = PodLog(api, "pod", "owner", held=held.read("pod"))
    api.error = NotFound("pods not found", status=404)
    assert b"".join(source.read()) == b"text\n"
    assert held._held > 0
    del source
    api.error = NotFound("pods not found", status=404)  # the other one refers to its frames
    assert held._held == 0 and held.read("pod") is None
    with pytest.raises(LogGone, match="pod pod is gone"):
        list(PodLog(api, "pod", "owner").read())
    api.error = Invalid("container is waiting to start", status=400)
    with pytest.raises(NoLog):
        list(PodLog(api, "pod", "owner").read())
    api.error = Forbidden("no right", status=403)  # an operator gives it
    with pytest.raises(Forbidden):
        list(PodLog(api, "pod", "owner").read())


def test_log_that_is_too_long_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_ONE", 20)
    api: Any = Api(bytes(range(256)) * 100)
    assert HeldLogs(api).read("pod") is None


def test_pod_of_another_cluster_is_not_looked_for() -> None:
    api: Any = Api()
    where = PodLog(api, "pod", "owner", "b#1").where
    assert find(api, "other", where) is None and find(api, "owner", {"path": "/x"}) is None
    source = find(api, "owner", where)
    assert source is not None and b"".join(source.read()) == b"of b\n"
