"""The users of Redis: each can do all that it must and nothing else; errors name the setting."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import redis

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.celery_redis import CeleryRedis
from gpuqueue.store import rights, whole_logs
from gpuqueue.store.attempts import UNTOLD, ExecutorAttempt
from gpuqueue.store.client import connect
from gpuqueue.store.scripts import source
from gpuqueue.store.whole_logs import WholeLogNotes
from tests.security import full_run
from tests.security.acl_redis import ROOT, USERS, USERS_FILE, AclRedis, filled
from tests.security.secured_stack import SecuredStack
from tests.support.nodes import APPS
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

#: By version of Redis, the words by which clients may introduce themselves.
WORDS = {"6.2": " +client|setinfo +client|maint_notifications", "7.2": " +client|setinfo"}
#: Granted, and not seen here, with the reason.
UNSEEN = {
    "client|setinfo": "MONITOR leaves connections' own commands out",
    "client|maint_notifications": "the same",
    "client|id": "the same",
    "client|tracking": "the same",
    "zrevrangebyscore": "kombu 5.6 says so what 5.7 says by zrange",
    "ping": "a client asks so whether a connection still works that was idle for 30 s",
    "exists": "a chord's script asks it when another worker has lost its claim",
    # ACL GETUSER of Redis 6.2 answers these two as parts of categories.
    "unwatch": "redis-py sends it only if it abandons a transaction",
    "ltrim": "an older dispatcher shortens the list that wakes a leader by it",
    "brpop": "an older dispatcher greets workers at its start, and takes their answers by it",
    "celeryev.*": "an older dispatcher follows the events of workers",
    "hvals": "a script reads the assigned GPUs; the dispatcher here has no GPU",
}
ADMINISTRATION = [
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "dir", "/tmp"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("RANDOMKEY",),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("SWAPDB", "0", "1"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "gpuqueue-executor", "+@all"),
    ("DEBUG", "SLEEP", "0"),
    ("MONITOR",),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SHUTDOWN", "NOSAVE"),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("MODULE", "LIST"),
    ("SAVE",),
    ("SCRIPT", "FLUSH"),
    ("SCRIPT", "KILL"),
    ("MIGRATE", "127.0.0.1", "1", "celery", "0", "10"),
]
HOSTILE = {
    "executor": [
        *ADMINISTRATION,
        ("BRPOP", "gpu.t4.shared", "1"),
        ("BLPOP", "gpu.t4.shared", "1"),
        ("RPOP", "celery"),
        ("LPOP", "celery"),
        ("RPOPLPUSH", "celery", "gpu.mine"),
        ("LMOVE", "celery", "gpu.mine", "LEFT", "RIGHT"),
        ("LRANGE", "gpu.t4.shared", "0", "-1"),
        ("LINDEX", "celery", "0"),
        ("LTRIM", "celery", "1", "0"),
        ("RENAME", "celery", "gpu.mine"),
        ("COPY", "celery", "gpu.mine"),
        ("DUMP", "celery"),
        ("SORT", "celery", "BY", "nosort"),
        ("HGETALL", "gpuqueue:1:{t4}:messages"),
        ("HVALS", "gpuqueue:1:{t4}:messages"),
        ("HSCAN", "gpuqueue:1:{t4}:jobs", "0"),
        ("EVAL", "return redis.call('RPOP', KEYS[1])", "1", "celery"),
        ("GET", "other:secret"),
        ("SET", "other:secret", "1"),
        ("GET", "gpuqueue:1:leader:default:t4"),
        ("DEL", "gpuqueue:1:classes"),
        ("ZADD", "gpuqueue:1:dispatchers", "1", "mine"),
        ("DEL", "gpuqueue.unacked"),
        ("HGET", "unacked", "tag"),
        ("PUBLISH", "/0.celery.pidbox", "revoke"),
        ("SUBSCRIBE", "/0.celery.pidbox"),
        ("PSUBSCRIBE", "/0.celeryev/*"),
        ("PSUBSCRIBE", "*"),
    ],
    "client": [
        *ADMINISTRATION,
        ("BRPOP", "gpu.t4.shared", "1"),
        ("RPOP", "celery"),
        ("LRANGE", "celery", "0", "-1"),
        ("EVAL", "return 1", "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("HGET", "gpuqueue:1:{t4}:messages", "id"),
        ("DEL", "gpuqueue:1:{t4}:jobs"),
        ("GET", "gpuqueue:1:leader:default:t4"),
        ("GET", "other:secret"),
        ("SUBSCRIBE", "/0.celeryev/task.sent"),
        ("PSUBSCRIBE", "*"),
    ],
    "worker": [
        *ADMINISTRATION,
        ("HGET", "gpuqueue:1:{t4}:messages", "id"),
        ("DEL", "gpuqueue:1:{t4}:jobs"),
        ("DEL", "gpuqueue.unacked"),
        ("LRANGE", "celery", "0", "-1"),
        ("GET", "other:secret"),
    ],
    "flower": [
        *ADMINISTRATION,
        ("HGET", "gpuqueue:1:{t4}:messages", "id"),
        ("DEL", "gpuqueue:1:{t4}:jobs"),
        ("LPUSH", "gpu.t4.shared", "{}"),
        ("LRANGE", "celery", "0", "-1"),
        ("GET", "other:secret"),
    ],
    "dispatcher": [
        *ADMINISTRATION,
        ("LRANGE", "celery", "0", "-1"),
        ("HGET", "unacked", "tag"),
        ("GET", "other:secret"),
    ],
}


@pytest.mark.parametrize(
    ("user", "words"),
    [(user, words) for user, tries in HOSTILE.items() for words in tries],
    ids=str,
)
def test_what_a_user_does_not_need_is_refused(
    acl_redis: AclRedis, user: str, words: tuple[str, ...]
) -> None:
    client: Any = acl_redis.as_user(user)  # redis has no type for client()
    with client.client() as connection, pytest.raises(redis.exceptions.NoPermissionError):
        connection.execute_command(*words)
    assert [each["username"] for each in acl_redis.denied()] == [f"gpuqueue-{user}"]
    client.close()


def test_a_script_of_an_executor_can_do_no_more_than_the_executor(acl_redis: AclRedis) -> None:
    client = acl_redis.as_user("executor")
    taking = client.register_script("return redis.call('RPOP', KEYS[1])")
    acl_redis.admin.lpush("celery", "a message")
    with pytest.raises(redis.ResponseError, match=r"permission|can't run this command"):
        taking(keys=["celery"])
    assert acl_redis.admin.llen("celery") == 1
    acl_redis.admin.delete("celery")
    assert acl_redis.denied()
    client.close()


def test_redis_rejects_a_missing_name_and_a_wrong_password(acl_redis: AclRedis) -> None:
    for url in (
        f"redis://127.0.0.1:{acl_redis.port}/0",
        acl_redis.url("executor", password="guessed"),
    ):
        with connect(url, retries=0) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    acl_redis.denied()


def test_the_unedited_file_has_no_usable_password() -> None:
    lines = [
        line for line in USERS_FILE.read_text().splitlines() if line.startswith("user gpuqueue-")
    ]
    assert sorted(line.split()[1] for line in lines) == sorted(f"gpuqueue-{user}" for user in USERS)
    for line in lines:
        user = line.split()[1].removeprefix("gpuqueue-").upper()
        assert line.split()[2:4] == ["on", f"#SHA256_OF_{user}_PASSWORD"]
        assert not {"nopass", "allkeys", "allchannels", "+@all", "~*", "&*"} & set(line.split())


def test_the_file_is_made_as_its_head_says(tmp_path: Path) -> None:
    passwords = {user: f"secret of {user}" for user in ("admin", *USERS)}
    head = re.findall(r"^#   (.*)$", USERS_FILE.read_text(), re.MULTILINE)
    typed = "\n".join(
        head[: next(at for at, line in enumerate(head) if line.endswith("> users.acl")) + 1]
    )
    env = {
        "PATH": os.environ["PATH"],
        **{f"{user.upper()}_PASSWORD": password for user, password in passwords.items()},
    }
    script = typed.replace("deploy/redis/users.acl", str(USERS_FILE))
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=env, check=True, timeout=30)
    assert (tmp_path / "users.acl").read_text() == filled(
        USERS_FILE.read_text(), passwords, quiet=False
    )
    for version, words in re.findall(
        r"for Redis ([\d.]+)[^:]*: -e '(s/.*/)'", USERS_FILE.read_text()
    ):
        done = subprocess.run(
            ["sed", "-e", words, "users.acl"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == (tmp_path / "users.acl").read_text().replace(
            " +ping", f"{WORDS[version]} +ping"
        )


def test_without_rights_for_client_setinfo_only_that_is_refused(
    tmp_path: Path,
) -> None:
    with AclRedis(tmp_path) as server:
        plain = filled(USERS_FILE.read_text(), server.passwords, quiet=False)
        (tmp_path / "users.acl").write_text(plain)
        server.admin.acl_load()
        server.denied()
        for user in USERS:
            assert server.as_user(user).ping()
        assert {each["object"] for each in server.denied()} <= {"client", "client|setinfo"}


# -- the whole way ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[AclRedis, dict[str, Any], list[dict[str, Any]]]]:
    """The story once: the server, what came of it, and what was refused."""
    folder = tmp_path_factory.mktemp("story")
    # The doctor looks at the application as well.
    settings = {"GPU_IMAGE_ALLOW": "*", "LEDGER_FOLDER": str(folder), "PYTHONPATH": str(APPS)}
    with AclRedis(folder / "redis") as server:
        with SecuredStack(
            folder, {user: server.url(user) for user in USERS}, cluster=True, dispatcher=settings
        ) as stack:
            try:
                seen = full_run.run(server, stack)
            except BaseException:
                print(stack.logs(), server.denied())
                raise
            seen["written"] = stack.logs() + server.log()
        yield server, seen, server.denied()


@pytest.mark.slow
def test_everything_works_with_these_users_and_nothing_is_refused(told: Any) -> None:
    _, seen, denied = told
    assert [(each["username"], each["object"]) for each in denied] == []
    assert seen["given back"] == [2, 4, 2]
    assert seen["next"] == ["n2#1", ""], "the second time, another job was first"
    assert seen["waits"] == [True, "m2#1", ["m2#1"], False]
    assert seen["ran"] == [
        *(
            42,
            "ValueError",
            1,
            8,
            10,
            [0, 2, 4],
            6,
            6,
            [2, 4, 2],
            11,
            "ValueError",
            "ImageUnusable",
        ),
        *(
            13,
            [0, 2, 4],
            [0, 2, 4],
            11,
            "stopped",
            "ExecutorDied",
            "InvalidJob",
            6,
            "TaskRevokedError",
        ),
    ]
    assert seen["errbacks"] == ["old", "new", "old", "old"]
    assert seen["revoked"] == [["PROGRESS", {"done": 1}], *["TaskRevokedError"] * 6]
    codes = {name: code for name, (code, _) in seen["commands"].items()}
    assert codes == {
        "status": 0,
        "why": 0,
        "logs": 1,
        "cancel": 0,
        "classes": 0,
        "doctor": 0,
    }, seen["commands"]
    assert (seen["flower"]["job"], seen["flower"]["result"]["result"]) == ("SUCCESS", 2)
    assert {"celery", "gpu.t4.shared"} <= seen["flower"]["queues"]
    assert "Revoked" in seen["flower"]["revoke"]["message"]
    measured, ready = seen["metrics"]
    assert (
        "gpuqueue_state_up 1.0" in measured
        and 'gpuqueue_untaken_messages{queue="gpu.t4.shared"} 0.0' in measured
    )
    assert ready.startswith("ok"), ready


@pytest.mark.slow
def test_no_log_contains_a_password(told: Any) -> None:
    server, seen, _ = told
    written = seen["written"] + "".join(text for _, text in seen["commands"].values())
    assert [user for user, password in server.passwords.items() if password in written] == []


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
def test_every_granted_command_key_and_channel_is_used(told: Any, user: str) -> None:
    server, *_ = told
    commands, keys, channels = server.granted(user)
    used = server.used(user)
    assert commands - set(used) - set(UNSEEN) == set()
    words = {word for calls in used.values() for call in calls for word in call}
    met = [each for each in keys if any(fnmatchcase(word, each) for word in words)]
    assert set(keys) - set(met) - set(UNSEEN) == set()
    spoken = {
        call[0] for name in ("publish", "subscribe", "psubscribe") for call in used.get(name, ())
    }
    assert [each for each in channels if not any(fnmatchcase(word, each) for word in spoken)] == []


@pytest.mark.slow
def test_in_another_database_all_works_with_the_changes_that_the_docs_name(tmp_path: Path) -> None:
    rules = USERS_FILE.read_text().replace("&/0.", "&/1.").replace(" +ping", " +select +ping")
    with AclRedis(tmp_path / "redis", rules) as server:
        urls = {user: server.url(user, db=1) for user in USERS}
        with SecuredStack(tmp_path / "stack", urls, cluster=True) as stack:
            stack.dispatcher()
            stack.worker()
            client = stack.client()
            assert (
                client.do(
                    "answer = chain(ledger.add.s(1, 2), ledger.gpu_double.s(),"
                    " ledger.add.s(4))().get(timeout=40)"
                )
                == 10
            )
            client.do("later = ledger.gpu_double.apply_async((1,), countdown=60)")
            until(
                lambda: client.do("answer = later.state") == "QUEUED",
                PATIENCE,
                "it is kept",
                stack.logs,
            )
            client.do("later.revoke()")
            until(
                lambda: client.do("answer = later.state") == "REVOKED",
                PATIENCE,
                "the revoke was heard",
                stack.logs,
            )
        assert [(each["username"], each["object"]) for each in server.denied()] == []


# -- wrong rights ----------------------------------------------------------------------------------


def ended(stack: SecuredStack) -> tuple[int | None, str]:
    node = stack.dispatcher(ready=False)
    until(lambda: node.status == "exited", PATIENCE, "it ends", node.logs)
    return node.exit_code, node.logs()


@pytest.mark.parametrize(
    ("user", "words"),
    [
        (
            "executor",
            (
                "; grant its user the rights of gpuqueue-dispatcher in Redis"
                " (deploy/redis/users.acl), or use another user"
            ),
        ),
        (
            "worker",
            (
                "; grant its user the rights of gpuqueue-dispatcher in Redis"
                " (deploy/redis/users.acl), or use another user"
            ),
        ),
        ("unknown", "; correct the user and the password in CELERY_BROKER_URL"),
    ],
)
def test_a_dispatcher_without_its_rights_ends_and_names_setting_and_fix(
    acl_redis: AclRedis, tmp_path: Path, user: str, words: str
) -> None:
    url = acl_redis.url("client", password="guessed") if user == "unknown" else acl_redis.url(user)
    with SecuredStack(tmp_path, {"all": url}) as stack:
        status, text = ended(stack)
        doctor = stack.command("doctor")
        shown = stack.command("status")
    assert (
        status == 78 and "gpuqueue: CELERY_BROKER_URL='redis://gpuqueue-" in text and words in text
    )
    assert "Traceback" not in text
    assert doctor.returncode == 1
    assert words.removeprefix("; ") in doctor.stdout
    assert (
        shown.returncode == 2 and words.removeprefix("; ").partition(" in Redis")[0] in shown.stderr
    )
    acl_redis.denied()


def test_rights_are_checked_for_a_separate_broker_and_result_backend(
    acl_redis: AclRedis,
) -> None:
    good, wrong = acl_redis.url("dispatcher"), acl_redis.url("flower")
    found = [
        str(each)
        for each in rights.refused(
            CeleryRedis(acl_redis.url("executor"), wrong, good), "GPUQUEUE_REDIS_URL"
        )
    ]
    assert [each.partition("=")[0] for each in found] == ["CELERY_BROKER_URL"]
    for where in (CeleryRedis(good, good, good), CeleryRedis("redis://127.0.0.1:1/0", None, good)):
        assert list(rights.refused(where, "GPUQUEUE_REDIS_URL")) == []
    acl_redis.denied()


@pytest.mark.slow
def test_the_job_of_an_executor_without_its_rights_fails_with_that_error(
    acl_redis: AclRedis, tmp_path: Path
) -> None:
    urls = {user: acl_redis.url(user) for user in USERS} | {"executor": acl_redis.url("client")}
    with SecuredStack(
        tmp_path, urls, cluster=True, dispatcher={"GPUQUEUE_MAX_ATTEMPTS": "1"}
    ) as stack:
        stack.dispatcher()
        log = stack.log_of_a_failed_launch()
    assert "CELERY_BROKER_URL='redis://gpuqueue-client:**@" in log
    assert "grant its user the rights of gpuqueue-executor in Redis (deploy/redis/users.acl)" in log
    acl_redis.denied()


def test_a_pod_that_may_not_wait_until_it_is_told_looks_often(
    acl_redis: AclRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    client = acl_redis.as_user("client")  # as an executor with the rights of an older file
    executor = ExecutorAttempt(client, Attempt("t4", "j", 1), "token")
    for seconds in (60.0, 0.1):
        executor.sleep("ns/job/pod", seconds)
    assert slept == [UNTOLD, 0.1]
    assert {each["object"] for each in acl_redis.denied()} == {"bzpopmin"}
    client.close()


# -- what the scripts run --------------------------------------------------------------------------

SCRIPTS = ROOT / "gpuqueue" / "store" / "lua"
#: The verbs of executors (store/attempts.py, store/finishes.py).
EXECUTORS_VERBS = (
    "claim",
    "loaded",
    "not_loaded",
    "sampled",
    "report",
    "reported",
    "finish_claim",
    "finish_failed",
    "finished",
    "next",
    "idle",
    "here",
    "adopt",
)
#: In local mode, the only one where GPUs are handed out, executors have the user of the dispatcher.
OF_LOCAL_MODE = {"next": {"hvals", "hgetall"}, "adopt": {"hvals"}}


@pytest.mark.parametrize("user", ["executor", "dispatcher"])
def test_every_command_of_the_scripts_that_a_user_calls_is_granted(user: str) -> None:
    (line,) = [
        each
        for each in USERS_FILE.read_text().splitlines()
        if each.startswith(f"user gpuqueue-{user} ")
    ]
    granted = {word.removeprefix("+") for word in line.split() if word.startswith("+")}
    every = sorted(path.stem for path in SCRIPTS.glob("*.lua"))
    every += [f"lease/{path.stem}" for path in SCRIPTS.glob("lease/*.lua")]
    verbs = EXECUTORS_VERBS if user == "executor" else every
    missing = {verb: commands(verb) - granted - OF_LOCAL_MODE.get(verb, set()) for verb in verbs}
    assert {verb: names for verb, names in missing.items() if names} == {}


def commands(verb: str) -> set[str]:
    """What a verb's own lines and the functions that it calls run, as far as their names lead."""
    text = source(verb)
    own = (SCRIPTS / f"{verb}.lua").read_text()
    functions = {
        found[1]: found[0]
        for found in re.findall(r"(local function (\w+)\(.*?\nend)", text, re.DOTALL)
    }
    reached, new = "", own
    while new:
        reached += new
        new = "".join(
            body
            for name, body in functions.items()
            if re.search(rf"\b{name}\(", reached) and body not in reached
        )
    return {name.lower() for name in re.findall(r"redis\.call\('(\w+)'", reached)}


def test_the_verbs_of_executors_are_those_that_they_call() -> None:
    store = ROOT / "gpuqueue" / "store"
    text = "".join((store / each).read_text() for each in ("attempts.py", "finishes.py"))
    assert set(re.findall(r'_?call\(\s*"(\w+)"', text)) == set(EXECUTORS_VERBS)


def test_notes_of_whole_logs_need_no_other_right(
    acl_redis: AclRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_logs, "MOST_MISSING", 1)
    before = len(acl_redis.denied())
    executor, dispatcher = (acl_redis.as_user(user) for user in ("executor", "dispatcher"))
    first, second = Attempt("t4", "a", 1), Attempt("t4", "b", 1)
    assert WholeLogNotes(executor, 60).due(first, {"path": "/a"})
    notes = WholeLogNotes(dispatcher, 60, "one")
    assert notes.due(second, {"path": "/b"}) and not notes.result(second)
    due = notes.all_due(["t4"])
    assert [due[first].by, due[second].by] == ["", "one"]
    notes.failed(first, due[first], "no answer")
    notes.written(first, "name", 3)
    for each in (first, second):
        notes.missing(each, "gone")
    assert notes.all_missing(["t4"]) == [second] and notes.all_due(["t4"]) == {}
    notes.forget(first)
    assert len(acl_redis.denied()) == before
    for client in (executor, dispatcher):
        client.close()
