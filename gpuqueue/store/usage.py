"""Note what classes have, and read what attempts have used; see lua/lib/accounting.lua."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import redis

from gpuqueue.classes.gpu_class import NODE, GpuClass
from gpuqueue.errors import GpuQueueError
from gpuqueue.model.names import EXCLUSIVE, SHARED
from gpuqueue.model.usage import DAY, RUNNING, Capacity, Entry, Had, Use, had, millionths
from gpuqueue.store.keys import class_key, usage_key
from gpuqueue.store.scripts import Scripts

#: Rows of one day of a class before tasks become "other"; twice as many: before tenants do.
ROWS = 500
#: Days for which usage is kept by day, tenant and task.
DAYS = 400
#: Seconds for which the run times of a task are kept that has not run since.
RUN_TIMES = 30 * 86_400.0
#: Seconds without a note after which a class without running jobs was not there meanwhile.
ABSENT = 3600.0
#: Entries that one read takes: each blocks Redis for a few milliseconds.
PAGE = 1000
#: How often a read begins again since days were archived meanwhile.
READS = 5
#: Changes of what a class has that are kept by themselves.
CAPACITIES = 500
#: The days that are kept together.
OLDER = "older"


class UsageNotKept(GpuQueueError):
    """What was asked for is not kept any more."""


class Capacities:
    """Notes what classes have. For the leading watcher.

    Args:
        client: of the Redis that has the state.
        classes: name → class; one may come later.
        entries: how many entries of a class are kept.
    """

    def __init__(
        self, client: redis.Redis, classes: Mapping[str, GpuClass], entries: int = 10_000
    ) -> None:
        self._scripts = Scripts(client)
        self._classes = classes
        self._kept = {"rows": ROWS, "history": entries, "days": DAYS, "absent": ABSENT}
        self._kept |= {"capacities": CAPACITIES, "run_times": RUN_TIMES}

    def note(self) -> None:
        """Note the slots and prices of the classes, from now on. Raises RedisError."""
        classes = list(self._classes.values())
        calls = [(each.name, {**_capacity(each), **self._kept}) for each in classes]
        for answer in self._scripts.each("note_capacity", calls):
            if isinstance(answer, Exception):
                raise answer


def _capacity(gpu_class: GpuClass) -> dict[str, Any]:
    price = millionths(gpu_class.price_per_hour)
    noted: dict[str, Any] = {
        "shared": gpu_class.shared_slots,
        "exclusive": gpu_class.exclusive_slots,
    }
    if gpu_class.domain != NODE:  # else the state knows them
        noted["domains"] = gpu_class.domains
    return noted if price is None else {**noted, "price": str(price)}


@dataclass(frozen=True, slots=True)
class Books:
    """What is known of one class at one moment. ``past``: what it had before its capacities, summed
    up; ``began``: since when. ``forgotten``: entries up to that time are not kept; 0: all are.
    ``oldest``: the first day that is kept by itself. ``lost``: attempts that could not be accounted
    for.
    """

    gpu_class: str
    now: int
    seen: int
    """The last sign of it: a note of its capacity, or the end of an attempt."""
    began: int
    past: list[Had]
    capacities: list[Capacity]
    rows: list[Use]
    entries: list[Entry]
    running: list[Entry]
    forgotten: int
    oldest: int
    lost: int

    def uses(self, since: int, until: int) -> Iterator[Use]:
        """Yield what was used in a window: by the sums of whole days, by the entries of others.

        Raises :class:`UsageNotKept` if one of them is not kept.
        """
        until = until if until < self.now else max(until, (self.now // DAY + 1) * DAY)
        whole = range(-(-since // DAY), until // DAY)
        self._check(since, until, whole)
        for row in self.rows:
            if since <= self.began if row.day is None else row.day in whole:
                yield row
        parts = [(since, until)]
        if whole:
            parts = [(since, whole.start * DAY), (whole.stop * DAY, until)]
        for begin, end in parts:
            for entry in self.entries if begin < end else ():
                yield from entry.uses(self.terms, begin, end)
        for entry in self.running:
            yield from entry.uses(self.terms, since, until)

    def had(self, since: int, until: int) -> Iterator[Had]:
        """Yield what the class had in a window. One that no dispatcher has noted for an hour, and
        that runs nothing, has ended with the last sign of it.
        """
        end = min(until, self.now)
        if self.now - self.seen > ABSENT * 1_000_000 and not self.running:
            end = min(end, max([self.seen, *(each.at for each in self.capacities[-1:])]))
        for one in self.past:
            day = one.day
            if since <= self.began or (day is not None and since <= day * DAY < end):
                yield one
        yield from had(self.gpu_class, self.capacities, since, end)

    @property
    def terms(self) -> list[Capacity]:
        """The capacities, the oldest since the class began."""
        return [replace(each, at=self.began) for each in self.capacities[:1]] + self.capacities[1:]

    def _check(self, since: int, until: int, whole: range) -> None:
        apart = [since] if since % DAY else []
        if until % DAY:
            apart.append(whole.stop * DAY if whole else since)
        summed = self.capacities[0].at if self.past and self.capacities else 0
        if any(self.began < each < max(self.forgotten, summed) for each in apart):
            raise UsageNotKept(
                f"class {self.gpu_class!r}: its single attempts are kept for a shorter time; ask"
                " for whole days (UTC), or raise GPUQUEUE_USAGE_ENTRIES"
            )
        if self.began < since < self.oldest * DAY:
            raise UsageNotKept(
                f"class {self.gpu_class!r}: its days are kept for a shorter time; ask for less, or"
                " for --since all"
            )


class Usage:
    """Reads what attempts have used. Nothing here changes anything."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._scripts = Scripts(client)

    def of(self, gpu_class: str, since: int | None = None) -> Books:
        """Read one class; with the entries since a time (Unix microseconds), if one is given."""
        for _ in range(READS):
            before = self._archived(gpu_class)
            days = [*self._days(gpu_class)]
            entries, after = self._history(gpu_class, since)
            answer = self._scripts.call("used", gpu_class, since=after, most=PAGE)
            now, flat, capacities, late, running, last = answer
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            if _number(fields.get("#archived")) == before and len(late) < 2 * PAGE:
                break
        entries |= dict.fromkeys(late[::2])
        counts: Any = self._client.hgetall(class_key(gpu_class, "counts"))
        known = _capacities(capacities)
        began = min([_number(fields.get("#began")) or int(now), *(each.at for each in known[:1])])
        return Books(
            gpu_class,
            int(now),
            max(_number(fields.get("#seen")), int(float(last))),
            began,
            [one for day, found in days for one in _past(gpu_class, day, found)],
            known,
            [one for found in (*dict(days).values(), fields) for one in _rows(gpu_class, found)],
            [entry for text in entries if (entry := _entry(gpu_class, text))],
            [entry for text in running if (entry := _entry(gpu_class, text, int(now)))],
            int(float(fields.get("#forgotten") or 0)),
            _number(fields.get("#oldest")),
            sum(
                _number(number)
                for name, number in counts.items()
                if name.startswith("unaccounted:")
            ),
        )

    def _archived(self, gpu_class: str) -> int:
        return _number(self._client.hget(class_key(gpu_class, "usage"), "#archived"))

    def _days(self, gpu_class: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield what is kept of past days: day → sums. Of today, what the class had."""
        key = class_key(gpu_class, "usage")
        oldest, today = self._client.hmget(key, ["#oldest", "#day"])
        days = [OLDER]
        if oldest and today:
            days += [str(day) for day in range(_number(oldest), _number(today) + 1)]
        for first in range(0, len(days), PAGE):
            page = days[first : first + PAGE]
            pipe = self._client.pipeline(transaction=False)
            for day in page:
                pipe.hgetall(usage_key(gpu_class, day))
            yield from zip(page, pipe.execute(), strict=True)

    def _history(self, gpu_class: str, since: int | None) -> tuple[dict[str, None], str | None]:
        """Return the entries since a time, but for the newest, and the time since when."""
        entries: dict[str, None] = {}
        if since is None:
            return entries, None
        after, key = str(since), class_key(gpu_class, "history")
        while True:
            found: Any = self._client.zrangebyscore(key, after, "+inf", 0, PAGE, withscores=True)
            new = [text for text, _ in found if text not in entries]
            entries |= dict.fromkeys(new)
            if len(found) < PAGE or not new:
                return entries, after
            after = str(int(found[-1][1]))


def _rows(gpu_class: str, fields: Mapping[str, str]) -> Iterator[Use]:
    """Yield the sums of a hash. What cannot be read is left out."""
    for name, text in fields.items():
        with suppress(ValueError, TypeError, AttributeError):
            key, row = json.loads(name), json.loads(text)
            if not isinstance(key, list) or len(key) != 6:
                continue
            day, tenant, task, isolation, reason, counted = key
            for terms, (attempts, held, waited) in row.items():
                slots, price = terms.split(" ")
                yield Use(
                    *(gpu_class, day or None, tenant, task, isolation, reason, bool(counted)),
                    *(int(slots), None if price == "-" else int(price)),
                    *(int(attempts), int(held), int(waited)),
                )


def _past(gpu_class: str, day: str, fields: Mapping[str, str]) -> Iterator[Had]:
    """Yield what a class had on a day, or before. What cannot be read is left out."""
    with suppress(ValueError, TypeError, AttributeError):
        for price, (_, length, _) in json.loads(fields.get("#had", "{}")).items():
            at = None if day == OLDER else int(day)
            yield Had(gpu_class, at, int(length), None if price == "-" else int(price))


def _capacities(texts: Sequence[str]) -> list[Capacity]:
    found = []
    for text in texts:
        with suppress(ValueError, TypeError, LookupError):
            one = json.loads(text)
            price = one.get("price")
            slots = {SHARED: int(one["shared"]), EXCLUSIVE: int(one["exclusive"])}
            capacity = Capacity(
                int(one["at"]), int(one["domains"]), slots, None if price is None else int(price)
            )
            found.append(capacity)
    return found


def _entry(gpu_class: str, text: str, now: int | None = None) -> Entry | None:
    """Parse an entry; with ``now``, of an attempt that holds its slot."""
    with suppress(ValueError, TypeError, LookupError):
        one = json.loads(text)
        start, stop = int(one["start"]), int(one["stop"]) if now is None else now
        return Entry(
            gpu_class=gpu_class,
            id=one["id"],
            delivery=one["delivery"],
            attempt=one["attempt"],
            tenant=one["tenant"],
            task=one["task"],
            domain=one["domain"],
            isolation=one["isolation"],
            reason=RUNNING if now is not None else one["reason"],
            counted=now is not None or bool(one["counted"]),
            start=start,
            stop=max(start, stop),
            waited=int(one["waited"]),
            slots=one.get("slots"),
            memory=one.get("memory"),
            memory_own=one.get("memory_own"),
            gpus=int(one.get("gpus", 1)),
        )
    return None


def _number(text: Any) -> int:
    with suppress(ValueError, TypeError):
        return int(text)
    return 0
