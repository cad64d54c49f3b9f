"""What befalls requests: refusals, silence, cut connections, watches that are dropped, silent or
told 410.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

from tests.doubles.kubernetes.http.connection import Connection, Cut
from tests.doubles.kubernetes.http.messages import Answer, Request
from tests.doubles.kubernetes.objects.errors import Refused
from tests.doubles.kubernetes.objects.wire import encode

#: What the server says in plain text when too many ask.
_TOO_MANY = b"Too many requests, please try again later.\n"
_WORDS = {
    500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
    502: ("", "Bad Gateway"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: (
        "Timeout",
        "Timeout: request did not complete within requested timeout - context deadline exceeded",
    ),
}

#: Seconds between two looks whether a client that is left hanging has given up.
LOOK = 0.05

#: What a rule does with a request.
ANSWER, HANG, CUT_BEFORE, CUT_AFTER = "answer", "hang", "cut before", "cut after"


@dataclass(slots=True)
class Rule:
    """What befalls the requests that match. ``seen`` counts them.

    Args:
        action: ``answer`` (with ``status``), ``hang`` (until the client gives up), ``cut before``
            or ``cut after`` the request is carried out.
        method: a regular expression that the whole method matches.
        path: a regular expression found in the path and query.
        times: how many requests, None for all.
        status: the HTTP status.
        retry_after: seconds of a ``Retry-After`` header.
        body: instead of the server's usual words.
    """

    action: str
    method: str = ".*"
    path: str = ""
    times: int | None = 1
    status: int = 0
    retry_after: int | None = None
    body: bytes | None = None
    seen: int = field(default=0, init=False)

    def matches(self, request: Request) -> bool:
        """Whether it is for this request."""
        left = self.times is None or self.seen < self.times
        return (
            left
            and re.fullmatch(self.method, request.method) is not None
            and re.search(self.path, request.target) is not None
        )


class Trouble:
    """The rules that are in force. ``latency``: seconds that every request takes longer."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._expiring = 0
        self._silent = False

    def add(self, rule: Rule) -> Rule:
        """Put a rule in force; the first that matches a request is for it."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """No rules, no silence, no 410."""
        with self._lock:
            self._rules.clear()
            self._expiring, self._silent = 0, False

    def expire_next(self, times: int) -> None:
        """Tell 410 to the next watches that start."""
        with self._lock:
            self._expiring += times

    def silence(self, on: bool) -> None:
        """Whether watches that start now are never sent anything."""
        self._silent = on

    def before(self, request: Request, connection: Connection) -> Answer | None:
        """Before a request is carried out: an answer instead of the server's, or None.

        Raises:
            Cut: the connection is to be reset.
        """
        if self.latency:
            connection.cut_off.wait(self.latency)
        rule = self._rule(request, after=False)
        if rule is None:
            return None
        if rule.action == CUT_BEFORE:
            raise Cut
        if rule.action == HANG:
            while not connection.gone():
                connection.cut_off.wait(LOOK)
            raise Cut
        return _refusal(rule)

    def after(self, request: Request) -> None:
        """After it was carried out.

        Raises:
            Cut: its answer is to be lost.
        """
        if self._rule(request, after=True) is not None:
            raise Cut

    def expires(self) -> bool:
        """Whether a watch that starts now is to be told 410."""
        with self._lock:
            if self._expiring:
                self._expiring -= 1
                return True
            return False

    def silences(self) -> bool:
        """Whether a watch that starts now is to be silent."""
        return self._silent

    def _rule(self, request: Request, *, after: bool) -> Rule | None:
        with self._lock:
            for rule in self._rules:
                if (rule.action == CUT_AFTER) is after and rule.matches(request):
                    rule.seen += 1
                    return rule
            return None


def _refusal(rule: Rule) -> Answer:
    headers = {} if rule.retry_after is None else {"Retry-After": str(rule.retry_after)}
    if rule.body is not None:
        return Answer(rule.status, rule.body, headers, content_type="text/plain; charset=utf-8")
    if rule.status == 429:
        return Answer(429, _TOO_MANY, headers, content_type="text/plain; charset=utf-8")
    reason, message = _WORDS.get(rule.status, ("", f"status {rule.status}"))
    return Answer(rule.status, encode(Refused(rule.status, reason, message).status()), headers)
