"""Which errors of Redis pass, as servers write them and redis-py raises them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator

import pytest
import redis
from kombu.exceptions import OperationalError

from gpuqueue.errors import ServerNotReady, ServerNotTrusted, StateUnavailable
from gpuqueue.store.client import connect, explained
from gpuqueue.store.handshake import opened
from gpuqueue.store.passing import (
    STATES,
    changes_role,
    describe,
    passes,
    refuses,
    word_of,
)
from gpuqueue.store.scripts import LOADS, Scripts
from tests.support.scripted_redis import CLOSE, OK, ScriptedRedis
from tests.support.waiting import until

#: As Redis 6.2 to 8.2 and Valkey write them.
PASSING = {
    "READONLY": "You can't write against a read only replica.",
    "LOADING": "Redis is loading the dataset in memory",
    "MASTERDOWN": "Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "UNBLOCKED": (
        "force unblock from blocking operation, instance state changed (master -> replica?)"
    ),
    "NOREPLICAS": "Not enough good replicas to write.",
    "OOM": "command not allowed when used memory > 'maxmemory'.",
    "MISCONF": "Errors writing to the AOF file: No space left on device",
    "BUSY": "Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "TRYAGAIN": "Multiple keys request during rehashing of slot",
    "CLUSTERDOWN": "The cluster is down",
}
IN_6_2 = "ERR Error running script (call to f_ecfa6c8d1a90): @user_script:12: @user_script: 12: -"
#: Lines of servers that repeating does not change.
REFUSALS = [
    "NOPERM User u has no permissions to run the 'set' command",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "DENIED Redis is running in protected mode because protected mode is enabled",
    "EXECABORT Transaction discarded because of: NOPERM no rights",
    "ERR Error running script (call to f_913f): @user_script:1: @user_script: 1: -NOPERM no",
    "ERR ACL failure in script: User u has no permissions to run the 'set' command",
]
LASTING = [
    *REFUSALS,
    "ERR unknown command 'FOO', with args beginning with: 'READONLY you' ",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOSCRIPT No matching script. Please use EVAL.",
    "BUSYKEY Target key name already exists.",
    "BUSYGROUP Consumer Group name already exists",
    "MOVED 3999 127.0.0.1:6381",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "EXECABORT Transaction discarded because of previous errors.",
    "ERR user_script:1: READONLY data script: 913fe641, on @user_script:1.",
    "ERR Error running script (call to f_913f): @user_script:1: user_script:1: x: -READONLY you",
]
Call = Callable[[redis.Redis], object]


def in_pipeline(client: redis.Redis) -> object:
    pipe = client.pipeline(transaction=False)
    pipe.set("READONLY", ") of pipeline caused error: READONLY x")
    return pipe.execute()


def in_transaction(client: redis.Redis) -> object:
    pipe = client.pipeline(transaction=True)
    pipe.set("key", "text")
    return pipe.execute()


def raised(line: str, call: Call, retries: int = 0) -> redis.RedisError:
    """The error that redis-py raises for a line of a server."""

    def answer(words: list[str]) -> bytes:
        if words[0] == "EXEC":
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        return OK if words[0] == "MULTI" else f"-{line}\r\n".encode()

    with (
        ScriptedRedis(answer) as server,
        connect(server.url, retries=retries) as client,
        pytest.raises(redis.RedisError) as error,
    ):
        call(client)
    return error.value


CALLS = [
    pytest.param(lambda client: client.get("key"), id="command"),
    pytest.param(in_pipeline, id="pipeline"),
    pytest.param(in_transaction, id="transaction"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("word", PASSING)
def test_an_error_that_passes_is_known_by_its_word(word: str, call: Call) -> None:
    error = raised(f"{word} {PASSING[word]}", call)
    assert passes(error), repr(error)
    assert word_of(error) == word
    assert changes_role(error) == (word in ("READONLY", "MASTERDOWN", "UNBLOCKED"))


@pytest.mark.parametrize("word", PASSING)
@pytest.mark.parametrize(
    "form",
    [
        pytest.param("{} script: ecfa6c8d, on @user_script:1.", id="7.0"),
        pytest.param("{} script: on @user_script:1.", id="valkey"),
        pytest.param(IN_6_2 + "{}", id="6.2"),
    ],
)
def test_an_error_that_passes_is_known_within_a_script(word: str, form: str) -> None:
    line = form.format(f"{word} {PASSING[word]}")
    assert word_of(raised(line, lambda client: client.evalsha("ecfa6c8d", 0))) == word
    assert word_of(raised(line, in_pipeline)) == word


@pytest.mark.parametrize("word", PASSING)
def test_the_cause_of_a_discarded_transaction_decides(word: str) -> None:
    line = f"EXECABORT Transaction discarded because of: {word} {PASSING[word]}"
    assert word_of(raised(line, lambda client: client.get("key"))) == word


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("line", LASTING)
def test_any_other_error_of_a_server_does_not_pass(line: str, call: Call) -> None:
    error = raised(line, call)
    assert not passes(error), repr(error)
    assert refuses(error) == (line in REFUSALS)
    assert not changes_role(error)


def test_every_word_is_tried_here() -> None:
    assert set(PASSING) == set(STATES)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def connection_errors() -> Iterator[redis.RedisError]:
    yield raised("ERR max number of clients reached", lambda client: client.get("key"))
    with pytest.raises(redis.ConnectionError) as refused:
        connect(f"redis://127.0.0.1:{closed_port()}/0", retries=0).ping()
    yield refused.value
    with (
        ScriptedRedis(lambda words: CLOSE) as server,
        pytest.raises(redis.ConnectionError) as reset,
    ):
        connect(server.url, retries=0).get("key")
    yield reset.value
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(redis.TimeoutError) as late,
    ):
        connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout=0.05, retries=0).ping()
    yield late.value


def test_lost_connections_pass() -> None:
    for error in connection_errors():
        assert passes(error), repr(error)
        assert not changes_role(error)
        assert describe(error).problem == "cannot be reached"


def behind(cause: Exception) -> redis.ConnectionError:
    """The error of redis-py for one of the connection below."""
    try:
        try:
            raise cause
        except OSError as exc:
            raise redis.ConnectionError(str(exc))  # noqa: B904
    except redis.ConnectionError as exc:
        return exc


def test_a_wrong_certificate_does_not_pass_and_a_closed_handshake_does() -> None:
    untrusted = ssl.SSLCertVerificationError(1, "CERTIFICATE_VERIFY_FAILED")
    untrusted.verify_code = 20
    wrong = behind(untrusted)
    plain = behind(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"))
    closed = behind(ssl.SSLEOFError(8, "EOF occurred in violation of protocol"))
    assert [passes(each) for each in (wrong, plain, closed)] == [False, False, True]
    assert [refuses(each) for each in (wrong, plain, closed)] == [True, True, False]
    assert describe(wrong).problem == "does not prove its identity"
    url = "rediss://redis:6379/0"
    found = [isinstance(explained(each, url, "X"), ServerNotTrusted) for each in (wrong, closed)]
    assert found == [True, False]


def test_a_missing_socket_file_is_no_matter_of_certificates() -> None:
    error = explained(behind(FileNotFoundError(2, "No such file")), "unix:///run/redis.sock", "X")
    assert not isinstance(error, ServerNotTrusted)


@pytest.mark.parametrize("kind", [OperationalError, StateUnavailable])
def test_an_error_of_another_library_passes_with_its_cause(kind: type[Exception]) -> None:
    def wrapped(line: str) -> Exception:
        error = kind("no")
        error.__cause__ = raised(line, lambda client: client.get("key"))
        return error

    assert passes(wrapped("READONLY no"))
    assert not refuses(wrapped("READONLY no"))
    assert refuses(wrapped("NOPERM no"))
    assert not refuses(None)
    assert not passes(wrapped("NOPERM no"))
    assert passes(ConnectionResetError())
    assert not passes(ValueError("READONLY no"))
    assert not passes(None)


@pytest.mark.parametrize(
    "line", [*(f"-{word} {text}\r\n" for word, text in PASSING.items()), f"-{IN_6_2}OOM no\r\n", ""]
)
def test_a_command_is_repeated_until_its_error_has_passed(line: str) -> None:
    answers = [line.encode(), line.encode(), b"+text\r\n"]
    with ScriptedRedis(lambda words: answers.pop(0)) as server:
        with connect(server.url) as client:
            assert client.get("key") == "text"
        assert len(server.commands) == 3


@pytest.mark.parametrize("line", LASTING)
def test_an_error_that_does_not_pass_is_raised_at_once(line: str) -> None:
    with ScriptedRedis(lambda words: f"-{line}\r\n".encode()) as server:
        with connect(server.url) as client, pytest.raises(redis.RedisError):
            client.get("key")
        assert len(server.commands) == 1


@pytest.mark.parametrize("word", PASSING)
def test_idle_connections_to_a_server_of_another_role_are_closed(word: str) -> None:
    answers = [f"-{word} {PASSING[word]}\r\n".encode(), OK]
    with ScriptedRedis(lambda words: answers.pop(0)) as server, connect(server.url) as client:
        pool = client.connection_pool
        for each in [opened(pool), opened(pool)]:
            pool.release(each)
        until(lambda: server.open == 2, what="two connections")
        client.set("key", "text")
        lost = 2 if word in ("READONLY", "MASTERDOWN", "UNBLOCKED") else 1
        assert server.connected == 3
        until(lambda: server.open == 3 - lost, what=f"{lost} closed connections")


def test_a_script_is_loaded_again_on_a_server_that_took_over() -> None:
    missing = b"-NOSCRIPT No matching script. Please use EVAL.\r\n"

    def replies(times: int) -> Callable[[list[str]], bytes]:
        left = [missing] * times

        def answer(words: list[str]) -> bytes:
            if words[0] != "EVALSHA":
                return b"+sha\r\n"
            return left.pop() if left else b":1\r\n"

        return answer

    for times in (0, 1, 2, 2 * LOADS):
        with ScriptedRedis(replies(times)) as server, connect(server.url) as client:
            assert Scripts(client).call("open", "t4") == 1
    with (
        ScriptedRedis(replies(100)) as server,
        connect(server.url) as client,
        pytest.raises(redis.exceptions.NoScriptError),
    ):
        Scripts(client).call("open", "t4")


def test_the_state_of_a_server_is_explained_in_one_line() -> None:
    error = raised(f"READONLY {PASSING['READONLY']}", lambda client: client.set("key", "text"))
    found = explained(error, "redis://me:secret@redis:6379/0", "CELERY_BROKER_URL")
    assert isinstance(found, ServerNotReady)
    assert str(found) == (
        "CELERY_BROKER_URL='redis://me:**@redis:6379/0' is read-only: You can't write against a"
        " read only replica.; try again when it is the primary again"
    )
