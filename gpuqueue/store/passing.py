"""Whether an error of Redis passes: the one predicate of the project.

An error passes if the same command may succeed later, on this connection or on a new one: Redis is
away, restarts, changes its role, or must not write for now. Repeating a command cannot help against
any other error: a wrong password, a missing right, a wrong type, a broken script.

The class of an error does not tell. redis-py has classes for some of the words that begin an error,
and removes these words; Redis 6.2 wraps the errors of commands within a script.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Final

import redis
from redis import exceptions
from redis.sentinel import MasterNotFoundError


@dataclass(frozen=True, slots=True)
class State:
    """The state of a server that answers with an error, and what ends it."""

    problem: str
    fix: str


#: The first word of an error that passes → the state of the server.
STATES: Final = {
    "READONLY": State("is read-only", "try again when it is the primary again"),
    "LOADING": State("loads its data", "try again when it has loaded them"),
    "MASTERDOWN": State("is a replica without its primary", "try again when it has a primary"),
    "UNBLOCKED": State("has changed its role", "try again"),
    "NOREPLICAS": State("has too few replicas to write", "start its replicas, and try again"),
    "OOM": State("is out of memory", "raise its maxmemory or free memory, and try again"),
    "MISCONF": State("cannot save to its disk", "free or repair the disk, and try again"),
    "BUSY": State("is busy with a script", "try again when the script has ended"),
    "TRYAGAIN": State("moves keys between its nodes", "try again when it has moved them"),
    "CLUSTERDOWN": State("is a cluster that is down", "try again when all its slots are served"),
}
#: The state while Sentinels name no primary, or none that is alive.
NO_PRIMARY: Final = State(
    "has no primary",
    "try again when its Sentinels have elected one, and check that most of them run",
)
#: Words after which the address may lead to another server: only a new connection finds it.
_OTHER_ROLE: Final = frozenset({"READONLY", "MASTERDOWN", "UNBLOCKED"})
#: Classes of redis-py whose text has lost its word. A subclass comes before its base.
_WORDS: Final = (
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.OutOfMemoryError, "OOM"),
)
#: What redis-py writes before the error of a command of a pipeline.
_PIPELINE: Final = ") of pipeline caused error: "
#: Where the word is: first; after the place in a script, in Redis 6.2; after EXECABORT, as its
#: cause. A text that a script makes up has another form than the second.
_WORD: Final = re.compile(
    r"(?:Error running script \(call to f_[0-9a-f]+\): @user_script:\d+: @user_script: ?\d+: -"
    r"|(?:EXECABORT )?Transaction discarded because of: )?([A-Z]+) "
)
#: Errors of TLS that are the end of a connection, in the handshake or later.
_CLOSED: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
#: Errors of connections that do not pass.
_REFUSALS: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError)

#: Parts of the errors for a forbidden command, also within a script: Redis 6.2, then newer ones.
_FORBIDDEN: Final = (
    "can't run this command",
    "can't access at least one of the keys",
    "ACL failure in script",
    "NOPERM",
)
#: How a server without users and passwords begins what it says to clients of other hosts.
_PROTECTED: Final = "DENIED "


def passes(exc: BaseException | None) -> bool:
    """Return whether an error passes. An error of another library passes if its cause does."""
    if isinstance(exc, _REFUSALS):
        return False
    if isinstance(exc, redis.RedisError):
        if word_of(exc):
            return True
        lost = isinstance(exc, redis.ConnectionError | redis.TimeoutError)
        return lost and tls_error(exc) is None
    if isinstance(exc, ConnectionError | TimeoutError):
        return True
    return exc is not None and passes(exc.__cause__)


def refuses(exc: BaseException | None) -> bool:
    """Return whether Redis refuses this client, or fails to prove its identity: its user, its
    password, its rights, its address, or a certificate. It ends when someone corrects that: users
    are loaded again, a certificate is renewed, a replica that was promoted gets its users.
    """
    if isinstance(exc, _REFUSALS):
        return True
    if isinstance(exc, redis.RedisError):
        said = str(exc).rpartition(_PIPELINE)[2] if isinstance(exc, redis.ResponseError) else ""
        return said.startswith(_PROTECTED) or forbidden(exc) or tls_error(exc) is not None
    return exc is not None and refuses(exc.__cause__)


def forbidden(exc: BaseException) -> bool:
    """Return whether Redis forbids the user this command, directly or within a script."""
    text = str(exc)
    return isinstance(exc, exceptions.NoPermissionError) or (
        isinstance(exc, redis.ResponseError) and any(words in text for words in _FORBIDDEN)
    )


def changes_role(exc: BaseException) -> bool:
    """Return whether only new connections can succeed: this server is no primary any more."""
    return word_of(exc) in _OTHER_ROLE


def state_of(exc: BaseException) -> State | None:
    """Return the state of a server that answers, but cannot serve; None for any other error."""
    if isinstance(exc, MasterNotFoundError):
        return NO_PRIMARY
    return STATES.get(word_of(exc))


def describe(exc: BaseException) -> State:
    """Return what an error says of the server, in any case."""
    if state := state_of(exc):
        return state
    if passes(exc):
        return State("cannot be reached", "try again when it answers")
    if tls_error(exc) is not None:
        return State("does not prove its identity", "check its certificate, and the ssl_… options")
    return State("refuses the command", "trying again cannot help")


def word_of(exc: BaseException) -> str:
    """Return the word of :data:`STATES` that an error of Redis is about; empty: none."""
    for kind, word in _WORDS:
        if isinstance(exc, kind):
            return word
    if not isinstance(exc, redis.ResponseError):
        return ""
    found = _WORD.match(str(exc).rpartition(_PIPELINE)[2])
    return found[1] if found and found[1] in STATES else ""


def tls_error(exc: BaseException | None) -> ssl.SSLError | None:
    """Return the error of TLS behind the error of a connection, unless the connection just ended.

    It does not pass: the certificate is wrong, or the server uses no TLS.
    """
    while exc is not None:
        if isinstance(exc, ssl.SSLError) and not isinstance(exc, _CLOSED):
            return exc
        exc = exc.__cause__ or exc.__context__
    return None
