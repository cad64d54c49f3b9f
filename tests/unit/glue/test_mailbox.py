"""By which names a dispatcher carries out and answers Celery's remote control."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state as worker_state
from celery.worker.consumer.control import Control as CeleryControl

from gpuqueue.classes.gpu_class import GpuClass, chords_class
from gpuqueue.glue.worker import control
from gpuqueue.glue.worker.control import BEHIND, Control
from gpuqueue.glue.worker.mailbox import ClassMailbox
from gpuqueue.model.names import worker_name

T4, A100, ITSELF = worker_name("t4"), worker_name("a100"), "one@host"
CLASSES = {"t4": GpuClass("t4", shared_slots=2, exclusive_slots=1), "a100": GpuClass("a100")}


class Post:
    """A dispatcher of two classes, which answers for ``speaks``; what it replies and does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, speaks: set[str]) -> None:
        self.replies: list[tuple[str, Any]] = []
        self.cancelled: list[list[str]] = []
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.soon: list[str] = []
        self.full = False
        self.beats = 0
        app = Celery("mailbox", broker="memory://", set_as_current=False)
        dispatcher = SimpleNamespace(
            workers=SimpleNamespace(classes=CLASSES, speaks=speaks),
            canceller=SimpleNamespace(cancel_all=self._cancel),
            inspection=SimpleNamespace(soon=self._soon, tasks=lambda name: {f"task of {name}"}),
            watcher=SimpleNamespace(beat_soon=self._beat),
        )
        self.consumer = SimpleNamespace(
            app=app,
            pool=None,
            hostname=ITSELF,
            controller=SimpleNamespace(use_eventloop=True, gpuqueue=dispatcher),
            timer=SimpleNamespace(call_after=lambda *call: self.later.append(call)),
            call_soon=lambda do, *arguments, **more: do(*arguments, **more),
            add_task_queue=lambda *added, **more: self.soon.append(f"add {added[0]}"),
            cancel_task_queue=lambda queue: self.soon.append(f"cancel {queue}"),
            task_consumer=None,
        )
        plain = CeleryControl(self.consumer)
        self.consumer.blueprint = SimpleNamespace(steps={CeleryControl.name: plain})
        Control(self.consumer).create(self.consumer)
        self.node = plain.box.node

        def reply(node: ClassMailbox, data: dict[str, Any], **to: Any) -> None:
            assert to == {"exchange": "x", "routing_key": "k", "ticket": "t", "serializer": "json"}
            self.replies += data.items()

        monkeypatch.setattr(ClassMailbox, "reply", reply)

    def _cancel(self, ids: list[str], **_: Any) -> dict[str, str]:
        self.cancelled.append(ids)
        return dict.fromkeys(ids, "cancelled")

    def _soon(self, answer: Callable[[], object]) -> bool:
        if not self.full:
            answer()
        return not self.full

    def _beat(self) -> None:
        self.beats += 1

    def send(self, method: str, *to: str, **arguments: Any) -> dict[str, Any]:
        """Send a command, to all workers or to some; return who answers what."""
        self.replies.clear()
        self.broadcast({"method": method, "arguments": arguments, "destination": list(to)})
        answers = dict(self.replies)
        assert len(answers) == len(self.replies), "one answer of a name"
        return answers

    def broadcast(self, body: dict[str, Any], reply: bool = True) -> None:
        expects = {"reply_to": {"exchange": "x", "routing_key": "k"}, "ticket": "t"}
        self.node.handle_message(body | (expects if reply else {}))


@pytest.fixture
def post(monkeypatch: pytest.MonkeyPatch) -> Post:
    return Post(monkeypatch, {"t4", "a100"})


@pytest.fixture
def standby(monkeypatch: pytest.MonkeyPatch) -> Post:
    """A dispatcher for whose classes another one answers."""
    return Post(monkeypatch, set())


PONG = {"ok": "pong"}


@pytest.mark.parametrize(
    ("to", "answers"),
    [
        ((), {T4: PONG, A100: PONG}),
        ((T4,), {T4: PONG}),
        ((ITSELF,), {ITSELF: PONG}),
        ((ITSELF, A100, "other@host"), {ITSELF: PONG, A100: PONG}),
        (("other@host",), {}),
    ],
)
def test_the_leader_answers_as_each_class_and_as_itself_if_named(
    post: Post, to: tuple[str, ...], answers: dict[str, Any]
) -> None:
    assert post.send("ping", *to) == answers


def test_a_standby_answers_only_to_its_own_name(standby: Post) -> None:
    assert standby.send("ping") == {}
    assert standby.send("ping", T4, ITSELF) == {ITSELF: PONG}


def test_a_leader_answers_for_its_own_classes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Post(monkeypatch, {"a100"}).send("ping") == {A100: PONG}


def test_a_pattern_means_the_names_that_match(post: Post) -> None:
    for pattern, names in (("gpu-t*", [T4]), ("*@host", [ITSELF]), ("x*", [])):
        post.replies.clear()
        post.broadcast({"method": "ping", "pattern": pattern, "matcher": "glob"})
        assert [name for name, _ in post.replies] == names


def test_a_question_about_jobs_is_answered_for_each_class(post: Post) -> None:
    assert post.send("registered") == {T4: ["task of t4"], A100: ["task of a100"]}
    assert post.send("registered", ITSELF) == {ITSELF: ["task of a100", "task of t4"]}


def test_a_question_without_a_reply_reads_nothing(post: Post, standby: Post) -> None:
    for each in (post, standby):
        each.full = True  # a question would be logged as dropped
        each.broadcast({"method": "registered"}, reply=False)
        assert each.replies == []
    assert standby.send("registered") == {}


def test_too_many_questions_are_dropped_with_a_line(
    post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    post.full = True
    assert post.send("registered", T4) == {}
    assert "registered is not answered: too many commands wait" in caplog.text


def test_an_unknown_command_is_answered_with_an_error(post: Post) -> None:
    assert post.send("nonsense", T4) == {T4: {"error": "no such command: 'nonsense'"}}


def test_a_command_that_fails_is_answered_with_its_error(post: Post) -> None:
    [(name, answer)] = post.send("add_consumer", T4).items()
    assert name == T4 and "missing 1 required positional argument" in answer["error"]


# -- revokes ---------------------------------------------------------------------------------------


def test_a_revoke_is_carried_out_once_and_answered_by_each_class(post: Post) -> None:
    ok = {"ok": "terminate: a"}
    assert post.send("revoke", task_id="a", terminate=True) == {T4: ok, A100: ok}
    assert post.cancelled == [["a"]] and post.later == []
    worker_state.revoked.clear()


def test_a_standby_revokes_a_moment_later_than_the_leader(standby: Post) -> None:
    assert standby.send("revoke", task_id="a", terminate=True) == {}
    assert standby.cancelled == [] and "a" in worker_state.revoked
    [(seconds, cancel)] = standby.later
    cancel()
    assert (seconds, standby.cancelled) == (BEHIND, [["a"]])
    worker_state.revoked.clear()


# -- operations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "arguments", "problem"),
    [
        ("pool_grow", {"n": 1}, "is its slots; change the setting (T4_SHARED_SLOTS"),
        ("pool_shrink", {"n": 1}, "is its slots; change the setting (T4_SHARED_SLOTS"),
        ("autoscale", {"max": 9, "min": 1}, "is its slots; change the setting (T4_SHARED_SLOTS"),
        ("pool_restart", {"modules": None, "reload": False}, "no pool to restart"),
        ("rate_limit", {"task_name": "t", "rate_limit": "1/s"}, "no rate limits"),
        ("time_limit", {"task_name": "t", "hard": 1}, "set time_limit and soft_time_limit"),
        ("disable_events", {}, "task events stay on"),
    ],
)
def test_what_no_dispatcher_can_follow_is_refused_with_the_way(
    post: Post, command: str, arguments: dict[str, Any], problem: str
) -> None:
    answers = post.send(command, **arguments)
    assert list(answers) == [T4, A100]
    assert all(problem in answer["error"] for answer in answers.values())


@pytest.mark.parametrize(
    "queue", ["cpu", "celery", "gpu", "gpu.", "gpu.T4", "", None, 7, ["gpu.t4"]]
)
@pytest.mark.parametrize("command", ["add_consumer", "cancel_consumer"])
def test_only_gpu_queues_are_added_and_cancelled(post: Post, command: str, queue: Any) -> None:
    for name, answer in post.send(command, ITSELF, T4, queue=queue).items():
        assert f"queue={queue!r} is no GPU queue" in answer["error"], name
    assert post.soon == []


@pytest.mark.parametrize("queue", ["gpu.t4", "gpu.t4.shared", "gpu.auto", "gpu.mig"])
def test_a_queue_of_the_class_is_added_and_cancelled(post: Post, queue: str) -> None:
    assert post.send("add_consumer", T4, queue=queue) == {T4: {"ok": f"add consumer {queue}"}}
    assert post.send("cancel_consumer", T4, queue=queue) == {
        T4: {"ok": f"no longer consuming from {queue}"}
    }
    assert post.soon == [f"add {queue}", f"cancel {queue}"]


def test_no_queue_of_the_class_of_unlocks_is_added(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CLASSES, "chords", chords_class(()))
    [answer] = post.send("add_consumer", ITSELF, queue="gpu.chords.shared").values()
    assert "of the class 'chords', and this worker serves t4, a100" in answer["error"]


def test_a_queue_of_another_class_is_added_by_its_worker_alone(post: Post) -> None:
    answers = post.send("add_consumer", queue="gpu.a100")
    assert answers[A100] == {"ok": "add consumer gpu.a100"}
    assert "is of the class 'a100', and this worker serves t4" in answers[T4]["error"]
    assert "of the class 'h100'" in post.send("add_consumer", A100, queue="gpu.h100")[A100]["error"]
    assert post.soon == ["add gpu.a100"]


@pytest.mark.parametrize(
    "more", [{"exchange": "celery"}, {"exchange_type": "topic"}, {"routing_key": "celery"}]
)
def test_a_queue_is_added_with_its_own_exchange_only(post: Post, more: dict[str, str]) -> None:
    [(field, value)] = more.items()
    answer = post.send("add_consumer", T4, queue="gpu.t4", **more)[T4]
    assert answer["error"].startswith(f"{field}={value!r} of queue 'gpu.t4' is not that")
    assert post.soon == []
    same = {"exchange": "gpu.t4", "exchange_type": "direct", "routing_key": "gpu.t4"}
    assert "ok" in post.send("add_consumer", T4, queue="gpu.t4", **same)[T4]


def test_a_standby_follows_the_leader_without_an_answer(standby: Post) -> None:
    assert standby.send("cancel_consumer", T4, queue="gpu.t4") == {}
    assert standby.soon == ["cancel gpu.t4"]


def test_a_heartbeat_on_demand_is_one_of_the_classes(post: Post) -> None:
    post.broadcast({"method": "heartbeat"}, reply=False)
    assert post.beats == 1


def test_a_shutdown_is_answered_before_the_dispatcher_ends(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    signal = SimpleNamespace(send=lambda **fields: told.append(fields))
    monkeypatch.setattr(control, "signals", SimpleNamespace(worker_shutting_down=signal))
    monkeypatch.setattr(worker_state, "should_stop", None)
    answer = post.send("shutdown", T4)[T4]["ok"]
    assert answer.startswith(f"{ITSELF} (classes: a100, t4) shuts down; running jobs continue")
    assert worker_state.should_stop == 0
    assert [each["how"] for each in told] == ["Warm"]
