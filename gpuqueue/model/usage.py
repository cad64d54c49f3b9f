"""What attempts have used, and what it cost: jobs + waste + idle = capacity, exactly. Pure: no I/O,
no clock.

Times are whole microseconds, since 1970 or as a duration. A price is that of one domain for an
hour, in whole millionths. Sums are fractions until they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

DAY = 86_400_000_000
HOUR = 3_600_000_000
#: What an hour of a domain costs at most, and how many digits its price has behind the point.
MOST_PRICE, DIGITS = 1_000_000, 6
#: The reason in place of that of an end, of an attempt that still holds its slot.
RUNNING = "RUNNING"


def price_text(value: object) -> str:
    """Return a price as text without needless zeros. Raises ValueError if it is none: a number or
    text of at most 6 digits behind the point, from 0 to 1,000,000.
    """
    wrong = f"is no price per hour; use 0 to {MOST_PRICE:,} with at most {DIGITS} decimals"
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(wrong)
    try:
        price = Decimal(str(value))
        scaled = price.scaleb(DIGITS)
    except ArithmeticError:
        raise ValueError(wrong) from None
    if (
        not price.is_finite()
        or not 0 <= price <= MOST_PRICE
        or scaled != scaled.to_integral_value()
    ):
        raise ValueError(wrong)
    return f"{price.normalize():f}"


def millionths(price: str | None) -> int | None:
    """Return a price that :func:`price_text` made, in millionths."""
    return None if price is None else int(Decimal(price).scaleb(DIGITS))


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a class has from a time on. ``slots``: isolation → slots of one domain."""

    at: int
    domains: int
    slots: dict[str, int]
    price: int | None


@dataclass(frozen=True, slots=True)
class Use:
    """What attempts of one kind have used on one day; None: on days that are kept together. The
    share of each is 1 / ``slots`` of a domain; 0: its class had not been noted yet.
    """

    gpu_class: str
    day: int | None
    tenant: str
    task: str
    isolation: str
    reason: str
    counted: bool
    slots: int
    price: int | None
    attempts: int
    held: int
    waited: int

    @property
    def used(self) -> Fraction:
        """Microseconds of a domain."""
        return Fraction(self.held, self.slots) if self.slots else Fraction(0)

    @property
    def cost(self) -> Fraction:
        """In millionths."""
        return self.used * (self.price or 0) / HOUR


@dataclass(frozen=True, slots=True)
class Entry:
    """One attempt that has held, or holds, a slot."""

    gpu_class: str
    id: str
    delivery: str
    attempt: int
    tenant: str
    task: str
    domain: str
    isolation: str
    reason: str
    counted: bool
    start: int
    stop: int
    waited: int
    slots: int | None = None
    memory: int | None = None
    memory_own: int | None = None
    gpus: int = 1
    """How many slots it held: its time counts as often."""

    def uses(self, capacities: Sequence[Capacity], since: int, until: int) -> Iterator[Use]:
        """Yield what it has used in a window, by day and by capacity. It counts as an attempt where
        it ends. ``capacities``: the oldest first.
        """
        start, stop = max(self.start, since), min(self.stop, until)
        last = max(self.start, self.stop - 1)
        ends_here = since <= last < until
        if start > stop or (start == stop and not ends_here):
            return
        cuts = {each.at for each in capacities if start < each.at < stop}
        cuts |= {day * DAY for day in range(start // DAY + 1, stop // DAY + 1)}
        edges = [start, *sorted(cut for cut in cuts if start < cut < stop), stop]
        for begin, end in pairwise(edges):
            holds = [each for each in capacities if each.at <= begin]
            slots = holds[-1].slots.get(self.isolation, 0) if holds else 0
            final = ends_here and end == stop
            yield Use(
                *(self.gpu_class, begin // DAY, self.tenant, self.task, self.isolation),
                *(self.reason, self.counted, slots, holds[-1].price if holds else None),
                int(final and self.reason != RUNNING),
                (end - begin) * self.gpus,
                self.waited if final else 0,
            )


@dataclass(frozen=True, slots=True)
class Had:
    """What a class had on one day: microseconds of a domain, by its price. None: on days that are
    kept together.
    """

    gpu_class: str
    day: int | None
    length: int
    price: int | None


def had(gpu_class: str, capacities: Sequence[Capacity], since: int, until: int) -> Iterator[Had]:
    """Yield what a class had in a window, by day and by price."""
    ends = [each.at for each in capacities[1:]] + [until]
    for each, end in zip(capacities, ends, strict=True):
        begin, stop = max(each.at, since), min(end, until)
        while begin < stop and each.domains:
            cut = min(stop, (begin // DAY + 1) * DAY)
            yield Had(gpu_class, begin // DAY, (cut - begin) * each.domains, each.price)
            begin = cut


@dataclass(slots=True)
class Sums:
    """Sums of one line of a report. ``used`` and ``wasted`` exclude one another; so do their
    costs.
    """

    attempts: int = 0
    running: int = 0
    held: int = 0
    waited: int = 0
    used: Fraction = field(default_factory=Fraction)
    wasted: Fraction = field(default_factory=Fraction)
    cost: Fraction = field(default_factory=Fraction)
    waste: Fraction = field(default_factory=Fraction)
    capacity: Fraction = field(default_factory=Fraction)
    value: Fraction = field(default_factory=Fraction)
    priced: bool = False

    def add(self, use: Use) -> None:
        """Add what attempts have used."""
        self.attempts += use.attempts
        self.held += use.held
        self.waited += use.waited
        self.priced |= use.price is not None
        if use.counted:
            self.used, self.cost = self.used + use.used, self.cost + use.cost
        else:
            self.wasted, self.waste = self.wasted + use.used, self.waste + use.cost

    def add_had(self, one: Had) -> None:
        """Add what a class had."""
        self.capacity += one.length
        self.value += Fraction(one.length * (one.price or 0), HOUR)
        self.priced |= one.price is not None


@dataclass(frozen=True, slots=True)
class Report:
    """What was used in a window, by a key, and in all."""

    lines: dict[str, Sums]
    total: Sums


def report(uses: Iterable[Use], haves: Iterable[Had], key: Callable[[Use | Had], str]) -> Report:
    """Sum up. ``key`` names the line of each; empty: it counts in the total alone."""
    lines: dict[str, Sums] = {}
    total = Sums()
    for use in uses:
        for sums in (lines.setdefault(key(use), Sums()), total):
            sums.add(use)
            sums.running += use.reason == RUNNING
    for one in haves:
        name = key(one)
        for sums in (lines.setdefault(name, Sums()), total) if name else (total,):
            sums.add_had(one)
    return Report(lines, total)


def rounded(whole: int, parts: Sequence[Fraction]) -> list[int]:
    """Round parts to whole numbers that add up to ``whole``: those with the largest remainders are
    rounded up. ``whole`` is their sum, rounded down, or up to one a part more.
    """
    floors = [int(each // 1) for each in parts]
    left = whole - sum(floors)
    order = sorted(range(len(parts)), key=lambda at: floors[at] - parts[at])
    for at in order[: max(0, left)]:
        floors[at] += 1
    return floors
