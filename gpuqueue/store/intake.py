"""The way of messages from the lists of the broker into the hands of dispatchers: one script, so
that no message is ever in one process alone. Its keys are on the Redis of the broker.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import redis

from gpuqueue.store.dead_letters import KEPT, MOST_LETTERS
from gpuqueue.store.keys import hand_keys, letter_keys
from gpuqueue.store.scripts import Scripts

#: How many messages one call takes: each is accepted in about 2 ms, the script takes about 1 ms.
BATCH = 64
#: Bytes of messages that one call takes, without the last one: more would delay other scripts.
BATCH_BYTES = 2**20
#: How often a message is tried. 5: some for dispatchers that happened to end with it in hand.
TRIES = 5
#: Seconds before the second and each further try: an error that is not the message's may be gone.
PAUSES = (0.0, 1.0, 4.0, 16.0)


class Verdict(StrEnum):
    """What became of a message in hand."""

    DONE = "done"
    """It is kept, refused, or known: it is removed."""
    BACK = "back"
    """It was not tried: any dispatcher may take it."""
    RETURNED = "returned"
    """It was not tried, and this process takes no more: it is the next of its list again."""
    WAITS = "waits"
    """It cannot be accepted now, and is not at fault: it is taken again after a pause."""
    SOON = "soon"
    """It can be accepted in a moment: it is taken again after a short pause."""
    FAILED = "failed"
    """Its acceptance failed: it is tried again, or set aside after the last try."""
    DEAD = "dead"
    """No try can succeed: it is set aside at once."""


@dataclass(frozen=True, slots=True)
class BrokerKeys:
    """How the broker names its lists: the prefix of all keys, the separator before a priority, and
    the priorities that have lists (the first has the plain name).
    """

    prefix: str = ""
    separator: str = "\x06\x16"
    steps: tuple[int, ...] = (0, 3, 6, 9)

    def lists(self, queue: str) -> list[str]:
        """Return the lists of a queue, that of the highest priority first."""
        return [self.list_of(queue, step) for step in self.steps]

    def list_of(self, queue: str, step: int) -> str:
        """Return the list of a queue and a priority of :attr:`steps`."""
        return f"{self.prefix}{queue}{f'{self.separator}{step}' if step else ''}"


@dataclass(frozen=True, slots=True)
class InHand:
    """A message in hand."""

    queue: str
    number: str
    hand: str
    tries: int
    """How many tries have failed before."""
    text: bytes
    """As its sender wrote it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a message in hand."""

    message: InHand
    verdict: Verdict
    error: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer of a call: messages, and what was noticed on the way."""

    messages: list[InHand] = field(default_factory=list)
    more: bool = False
    """More messages can be taken now."""
    processes: list[str] = field(default_factory=list)
    """The processes that have messages in hand, if the call asked for them."""
    set_aside: dict[str, str] = field(default_factory=dict)
    """Dead letter → error."""
    problems: dict[str, str] = field(default_factory=dict)
    """Queue → its key of a wrong type, which keeps messages where they are."""


class Intake:
    """Takes messages for one process.

    Args:
        client: of the Redis of the broker. It answers bytes, and does not repeat commands.
        keys: how the broker names its lists.
        process: the name of this process.
        lease: seconds for which it may hold a message.
        lost: the hands of calls that failed; kept for the next client.
    """

    def __init__(
        self,
        client: redis.Redis,
        keys: BrokerKeys,
        process: str,
        lease: float,
        lost: list[str] | None = None,
    ) -> None:
        self._scripts = Scripts(client)
        self._keys = keys
        self._process = process
        self._lease = lease
        self._lost = [] if lost is None else lost

    def take(
        self,
        queues: Sequence[str],
        reports: Iterable[Report] = (),
        *,
        most: int = BATCH,
        others: bool = False,
        gone: Iterable[str] = (),
    ) -> Taken:
        """Report messages, and take others from queues in this order. May be repeated with the same
        reports if it fails: the messages that it took are given back by the next call.

        Args:
            queues: where to take messages.
            reports: what became of messages in hand.
            most: how many messages to take.
            others: name the processes that have messages in hand.
            gone: processes that have ended: their messages can be taken now.
        """
        hand = f"{self._process}/{secrets.token_hex(6)}"
        reported: dict[str, list[list[str]]] = {queue: [] for queue in queues if most}
        for each in reports:
            message = each.message
            error = [each.error] if each.error else []
            reported.setdefault(message.queue, []).append(
                [message.number, message.hand, each.verdict, *error]
            )
        asked = [
            {"name": queue, "take": int(bool(most) and queue in queues), "reports": found}
            for queue, found in reported.items()
        ]
        keys = letter_keys(self._keys.prefix)
        for queue in reported:
            keys += [*hand_keys(queue, self._keys.prefix), *self._keys.lists(queue)]
        lost = list(self._lost)
        self._lost.append(hand)
        answer = self._scripts.call_on(
            keys,
            "intake/take",
            hand=hand,
            lease=self._lease,
            most=most,
            bytes=BATCH_BYTES,
            queues=asked,
            steps=self._keys.steps,
            lost=lost,
            gone=list(gone),
            others=int(others),
            tries=TRIES,
            pauses=PAUSES,
            letters=MOST_LETTERS,
            kept=KEPT,
        )
        taken = _taken(answer, list(reported), hand)
        self._lost.clear()
        return taken


def _taken(answer: Sequence[Any], queues: Sequence[str], hand: str) -> Taken:
    more, processes, buried, wrong, found = answer
    messages = [
        InHand(queues[index - 1], number.decode(), hand, tries, text)
        for index, number, tries, text in _grouped(found, 4)
    ]
    set_aside = {letter.decode(): error.decode() for letter, error in _grouped(buried, 2)}
    problems = {queues[index - 1]: problem.decode() for index, problem in _grouped(wrong, 2)}
    return Taken(messages, bool(more), [each.decode() for each in processes], set_aside, problems)


def _grouped(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[at : at + size] for at in range(0, len(values), size))
