"""Where `gpuqueue logs` finds a log, how it follows one, and what `cancel --wait` prints of an
unconfirmed stop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from gpuqueue.cli import main
from gpuqueue.cli.commands import cancel, logs
from gpuqueue.cli.logs import sources as pod_logs
from gpuqueue.launchers.kubernetes.api.errors import Forbidden, Invalid, Unreachable

WAITING = {"id": "j", "delivery": "j", "gpu_class": "t4", "state": "waiting"}
LAUNCHING = {
    **WAITING,
    "state": "launching",
    "attempt": 1,
    "instance": "gpus/gpu-j-1",
    "admitted": 1.0,
}
RUNNING = {**LAUNCHING, "state": "running", "pod": "gpu-j-1-abcde"}
ENDED = {**RUNNING, "state": "ended", "ended": 100.0, "released": 100.0, "reason": "SUCCEEDED"}
PROCESS = {**RUNNING, "instance": "host-a:nonce:17"}
#: The second job of its pod; and the same, once its pod has left it.
WARM = {**RUNNING, "warm": 60.0, "warm_of": "i#1", "warm_turn": 2, "launched": 1000.5}
LEFT = {**ENDED, "warm": 60.0, "warm_of": "i#1", "launched": 1000.5}
IN_POD = """\
1970-01-01T00:16:40.499999999Z of the first
1970-01-01T01:16:40.5+01:00 of the second
1970-01-01T00:16:41.25Z\x20
1970-01-01T00:16:30Z after the clock was set back
"""


class World:
    """The records that looks at a job find, one after the other; pods' logs, by instance; what
    Redis keeps, by holder.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.records: list[Any] = []
        self.pods: dict[str, list[Any]] = {}
        self.kept: dict[str, str] = {}
        self.asked: list[tuple[str, int]] = []
        self.client = self.reader = self
        self.now_known: Any = None
        self.since: list[float | None] = []
        patch.setattr(logs, "open_state", lambda: self)
        patch.setattr(logs, "find", self.find)
        patch.setattr(time, "sleep", lambda seconds: None)
        patch.setattr(
            pod_logs,
            "_pod",
            lambda record: (self, record["instance"]) if record.get("instance") else None,
        )
        patch.setattr(
            pod_logs,
            "kept",
            lambda state, record, attempt: self.kept.get(f"{record['delivery']}#{attempt}", ""),
        )

    def now(self) -> float:
        return 101.0

    def find(self, state: object, job_id: str) -> Any:
        found = self.records.pop(0) if len(self.records) > 1 else self.records[0]
        if isinstance(found, Exception):
            raise found
        return found

    def follow_log(self, pod: str, tail: int) -> Iterator[str]:
        self.asked.append((pod, tail))
        answers = self.pods.get(pod, [])
        answer = answers.pop(0) if answers else ""
        if isinstance(answer, Exception):
            raise answer
        yield from filter(None, [answer])

    def pod_log(self, pod: str, tail: int, limit: int, since: float | None = None) -> str:
        self.since.append(since)
        return "".join(self.follow_log(pod, tail))

    def record(self, gpu_class: str, delivery: str) -> Any:
        return self.now_known or self.records[0]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_log_is_read_from_the_pod_while_it_lives(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records, world.pods = [RUNNING], {"gpus/gpu-j-1": ["one\ntwo\nthree"]}
    assert main(["logs", "j", "--tail", "2"]) == 0
    assert capsys.readouterr().out == "two\nthree\n"


def test_the_log_of_a_warm_pod_is_cut_where_its_job_begins(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records, world.pods = [WARM], {"gpus/gpu-j-1": [IN_POD]}
    assert main(["logs", "j"]) == 0
    assert capsys.readouterr().out == "of the second\n\nafter the clock was set back\n"
    assert world.since == [100.5], "the clock of its node may be behind"


def test_a_job_begins_where_the_runner_of_its_pod_goes_on_with_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock of its node is behind that of Redis."""
    text = [
        "1970-01-01T00:16:38Z of the first",
        "1970-01-01T00:16:39Z [INFO] this pod goes on with j#1",
        "1970-01-01T00:16:39Z of the second",
        "1970-01-01T00:16:40.5Z too",
    ]
    world.records, world.pods = [WARM], {"gpus/gpu-j-1": ["\n".join(text)]}
    assert main(["logs", "j"]) == 0
    assert capsys.readouterr().out == "of the second\ntoo\n"


@pytest.mark.parametrize(
    "then",
    [
        {**WARM, "state": "ended", "admitted": 1.0, "released": 1.0},
        {**WARM, "state": "ended", "warm_last": "k#1"},
        {**WARM, "attempt": 2},
    ],
    ids=["released", "gone on", "another attempt"],
)
def test_what_a_warm_pod_prints_after_a_job_is_not_of_it(
    world: World, then: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    world.records, world.now_known, world.pods = [WARM], then, {"gpus/gpu-j-1": [IN_POD]}
    assert main(["logs", "j"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("left", [{"admitted": 1.0, "released": 1.0}, {"warm_last": "k#1"}])
def test_the_pod_is_not_asked_for_a_job_that_it_has_left(
    world: World, left: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    world.records = [{**WARM, "state": "ended", "ended": 100.0, **left}]
    assert main(["logs", "j"]) == 1
    assert not world.asked
    world.kept = {"j#1": "kept\n"}
    assert main(["logs", "j"]) == 0
    assert capsys.readouterr().out == "kept\n"


def test_the_first_job_of_a_warm_pod_has_its_log_from_the_start(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records, world.pods = [{**RUNNING, "warm": 60.0}], {"gpus/gpu-j-1": ["one\n"]}
    assert main(["logs", "j"]) == 0
    assert capsys.readouterr().out == "one\n"
    assert world.since == [None]


def test_following_ends_with_the_job_though_its_pod_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records = [WARM, WARM, WARM, LEFT]
    stamp = "1970-01-01T00:16:41Z"
    world.pods = {
        "gpus/gpu-j-1": [
            f"{stamp} one\n",
            f"{stamp} one\n{stamp} two\n",
            f"{stamp} one\n{stamp} two\n",
        ]
    }
    world.now_known, original = WARM, world.find

    def find(state: object, job_id: str) -> Any:
        found = original(state, job_id)
        if found is LEFT:
            world.kept = {"j#1": "one\ntwo\nthree\n"}
        return found

    monkeypatch.setattr(logs, "find", find)
    assert main(["logs", "-f", "j"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("one\ntwo\nthree\n", "")


def test_what_was_kept_needs_no_cluster(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.records, world.kept = [ENDED], {"j#1": "kept\n"}
    assert main(["logs", "j"]) == 0
    assert capsys.readouterr().out == "kept\n"
    assert not world.asked


def test_an_older_attempt_is_never_answered_with_the_newest_ones_log(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records, world.pods = [{**RUNNING, "attempt": 3}], {"gpus/gpu-j-1": ["of the third\n"]}
    world.kept = {"j#1": "of the first\n"}
    assert main(["logs", "j", "--attempt", "1"]) == 0
    assert main(["logs", "j", "--attempt", "2"]) == 1
    assert main(["logs", "j", "--attempt", "4"]) == 1
    out, err = capsys.readouterr()
    assert out == "of the first\n"
    assert "no log of attempt 2 was kept" in err
    assert "has no attempt 4; its newest is 3" in err


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_a_process_of_another_machine_has_its_log_there(
    world: World, follow: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    world.records = [PROCESS]
    assert main(["logs", "j", *follow]) == 1
    assert (
        "is a process on host-a: run `gpuqueue logs` there, as the user of its dispatcher"
        in capsys.readouterr().err
    )


def test_no_access_to_the_cluster_is_one_line_while_the_pod_lives(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records, world.pods = (
        [RUNNING],
        {"gpus/gpu-j-1": [Forbidden("no", status=403), Forbidden("no", status=403)]},
    )
    assert main(["logs", "j"]) == 2
    assert main(["logs", "-f", "j"]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert "403" in line
        assert "`get pods/log`" in line
    world.records, world.pods = [ENDED], {"gpus/gpu-j-1": [Forbidden("no", status=403)]}
    assert main(["logs", "j"]) == 1


def test_following_prints_each_wait_once_and_follows_the_next_attempt(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    pulling = {**LAUNCHING, "wait": "PULLING_IMAGE", "detail": "pulling shop:1"}
    again = {**WAITING, "attempt": 1}
    second = {**RUNNING, "attempt": 2, "instance": "gpus/gpu-j-2"}
    world.records = [
        WAITING,
        WAITING,
        pulling,
        pulling,
        RUNNING,
        again,
        second,
        {**ENDED, "attempt": 2},
    ]
    world.pods = {
        "gpus/gpu-j-1": [Invalid("creating"), Invalid("creating"), "one\n"],
        "gpus/gpu-j-2": ["two\n"],
    }
    assert main(["logs", "-f", "j"]) == 0
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    said = ["waiting", "launching PULLING_IMAGE pulling shop:1", "waiting"]
    assert err.splitlines() == [f"gpuqueue: j: {each}" for each in said]


def test_attempts_between_two_polls_are_shown_from_kept_logs(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records = [RUNNING, RUNNING, {**ENDED, "attempt": 3}]
    world.pods, world.kept = {"gpus/gpu-j-1": ["one\n"]}, {"j#2": "two\n", "j#3": "three"}
    assert main(["logs", "-f", "j"]) == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_celery_retry_restarts_the_attempt_count_and_is_followed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    retry = {**RUNNING, "delivery": "j.1", "instance": "gpus/gpu-j-r"}
    world.records = [
        RUNNING,
        RUNNING,
        {**ENDED, "reason": "RETRIED"},
        retry,
        {**ENDED, "delivery": "j.1"},
    ]
    world.pods = {"gpus/gpu-j-1": ["one\n"], "gpus/gpu-j-r": ["two\n"]}
    assert main(["logs", "-f", "j"]) == 0
    assert capsys.readouterr().out == "one\ntwo\n"
    assert list(dict.fromkeys(pod for pod, _ in world.asked)) == ["gpus/gpu-j-1", "gpus/gpu-j-r"]


def test_a_retry_that_went_elsewhere_is_not_waited_for(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records, world.kept = [{**ENDED, "reason": "RETRIED", "ended": 90.0}], {"j#1": "one\n"}
    assert main(["logs", "-f", "j"]) == 0
    assert capsys.readouterr().out == "one\n"


def test_a_log_that_broke_off_goes_on_where_it_was(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records = [RUNNING, RUNNING, RUNNING, RUNNING, ENDED]
    world.pods = {
        "gpus/gpu-j-1": [
            "one\ntw",
            Unreachable("no answer"),
            "one\ntwo\nthree\n",
            "one\ntwo\nthree\n",
        ]
    }
    assert main(["logs", "-f", "j"]) == 0
    out, err = capsys.readouterr()
    assert out == "one\ntwo\nthree\n"
    assert err == "gpuqueue: j: no answer; trying again\n"


def test_a_gap_is_marked_where_part_of_the_log_is_lost(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records = [RUNNING, RUNNING, RUNNING, ENDED]
    world.pods = {"gpus/gpu-j-1": ["one\n", "three\n"]}
    assert main(["logs", "-f", "j"]) == 0
    out, err = capsys.readouterr()
    assert out == "one\nthree\n"
    assert "some lines written meanwhile are missing here" in err


def test_what_came_after_the_last_stream_is_taken_from_what_was_kept(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    again = {**RUNNING, "attempt": 2, "instance": "gpus/gpu-j-2"}
    world.records = [RUNNING, RUNNING, again, again, {**ENDED, "attempt": 2}]
    world.pods = {"gpus/gpu-j-1": ["one\n"], "gpus/gpu-j-2": ["three\n"]}
    world.kept = {"j#1": "one\ntwo\n", "j#2": "three\nfour\n"}
    assert main(["logs", "-f", "j"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("one\ntwo\nthree\nfour\n", "")


def test_what_was_kept_may_begin_before_what_was_shown(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records, world.kept = [RUNNING, RUNNING, ENDED], {"j#1": "one\ntwo\nthree\nfour\nfive\n"}
    world.pods = {"gpus/gpu-j-1": ["two\nthree\nfour\n"]}
    assert main(["logs", "-f", "--tail", "2", "j"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("two\nthree\nfour\nfive\n", "")


def test_an_unjoinable_end_of_a_log_is_marked_and_not_repeated(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records, world.kept = [RUNNING, RUNNING, ENDED], {"j#1": "eight\nnine\n"}
    world.pods = {"gpus/gpu-j-1": ["one\n"]}
    assert main(["logs", "-f", "j"]) == 0
    out, err = capsys.readouterr()
    assert out == "one\n"
    assert "`gpuqueue logs j` shows the stored part" in err


def test_following_outlives_a_redis_that_is_away(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records = [
        RUNNING,
        redis.ConnectionError("refused"),
        redis.ConnectionError("refused"),
        ENDED,
    ]
    world.pods = {"gpus/gpu-j-1": ["one\n"]}
    assert main(["logs", "-f", "j"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("one\n", "gpuqueue: j: Redis cannot be reached: refused; trying again\n")


def test_no_such_job_is_no_log(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["logs", "j"], ["logs", "-f", "j"]):
        world.records = [None]
        assert main(arguments) == 1
        assert "no job 'j' is known" in capsys.readouterr().err


def test_a_silent_job_is_reported_to_have_no_log(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records = [RUNNING, ENDED]
    assert main(["logs", "-f", "j"]) == 1
    assert "it wrote nothing, or its log was not kept" in capsys.readouterr().err
    world.records = [LAUNCHING]
    assert main(["logs", "j"]) == 1
    assert "has written nothing yet; see `gpuqueue why j`" in capsys.readouterr().err
    world.records = [{**WAITING, "state": "ended", "ended": 100.0, "reason": "EXPIRED"}]
    assert main(["logs", "-f", "j"]) == 1
    assert "no attempt has started yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {**RUNNING, "wait": "UNCONFIRMED", "detail": "told to end, and node a has not said"},
            "(UNCONFIRMED: told to end, and",
        ),
        ({**RUNNING, "wait": "UNCONFIRMED"}, "(UNCONFIRMED)"),
        (RUNNING, "(not ended yet)"),
        ({**ENDED, "reason": "CANCELLED"}, "has ended: CANCELLED"),
    ],
)
def test_a_waiting_cancel_prints_what_it_waits_for(
    record: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancel, "find", lambda state, job_id: record)
    outcome: dict[str, Any] = {"id": "j", "outcome": "stopping", "reason": None}
    cancel._wait(None, [outcome], 0.0)  # type: ignore[arg-type]
    assert said in cancel.say(outcome)


def test_follow_goes_with_neither_attempt_nor_json(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.records = [RUNNING]
    assert main(["logs", "-f", "--json", "j"]) == 2
    assert "leave one out" in capsys.readouterr().err
