"""Whether a long line costs more than a short one.

Measured: two classes in one Redis, one with 100 waiting jobs and one with 100,000, in turns:
``release``, which frees a slot and returns the next job; ``why`` of the last job in line; the view
of ``status`` (50 waiting jobs per isolation); and the Redis queries of a /metrics scrape. After
each measurement, as many jobs enter the line as have left it. Peer: the same on the short line.
Floor: PING.

Aim: an admission with 100,000 waiting jobs costs at most 20 % more than with 100.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.harness import Figure, Sample, Size, alternate, cost, ratio
from benchmarks.messages import Template, fill, template
from benchmarks.stage import Stage
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.model.attempt import Attempt
from gpuqueue.store.line import Line
from gpuqueue.store.measures import Measures

SHORT, LONG = 100, 100_000
AIM = 1.2
STEPS = 50


class _Deep:
    """One class whose line keeps its depth."""

    def __init__(self, stage: Stage, made: Template, name: str, depth: int) -> None:
        self._stage, self._made = stage, made
        self._line = Line(stage.client, by="bench")
        self._measures = Measures(stage.client)
        self._class = GpuClass(name, shared_slots=1)
        self._full = GpuClass(name, shared_slots=0)
        self._last = fill(stage.client, self._full, made, depth)[-1]
        self._held: list[Any] = list(self._line.admit(self._class))
        assert len(self._held) == 1

    def admission(self) -> float:
        """Return the cost of one handover in µs."""
        found = cost(STEPS, self._hand_over)
        self._last = fill(self._stage.client, self._full, self._made, STEPS)[-1]
        return found

    def _hand_over(self) -> None:
        gone = self._held.pop()
        self._held.extend(self._line.release(self._class, Attempt.of(gone)).granted)
        assert len(self._held) == 1

    def why(self) -> float:
        """Return the cost of ``why`` for the last job in line, in µs."""

        def ask() -> None:
            answer = self._stage.reader.why(self._class, self._last)
            assert answer is not None and answer.place > 1

        return cost(STEPS, ask)

    def view(self) -> float:
        """Return the cost of the view of ``status`` in µs."""
        return cost(
            STEPS // 5, lambda: self._stage.reader.view(self._class.name, self._class.public())
        )

    def scrape(self) -> float:
        """Return the cost of the queries of a scrape in µs."""
        return cost(STEPS, lambda: self._measures.of(self._class.name))


def run(size: Size) -> list[Figure]:
    """Measure it."""
    repeats, deepest = size.of(15, 5), size.of(LONG, LONG // 10)
    with Stage() as stage:
        made = template(stage.app, "gpu.t4.shared", stage.client)
        long, short = _Deep(stage, made, "long", deepest), _Deep(stage, made, "short", SHORT)
        ping: Callable[[], float] = lambda: cost(STEPS, stage.client.ping)  # noqa: E731 - one of the turns
        turns = (
            long.admission,
            short.admission,
            long.why,
            short.why,
            long.view,
            short.view,
            long.scrape,
            short.scrape,
            ping,
        )
        admitted, admitted_short, why, why_short, view, view_short, scrape, scrape_short, pings = (
            alternate(repeats, *turns)
        )
    floor = Sample("PING", pings)
    ours, peer = Sample(f"{deepest} waiting", admitted), Sample(f"{SHORT} waiting", admitted_short)
    met = (ratio(ours, peer) or 0) <= AIM
    return [
        Figure(
            f"an admission at {deepest} waiting", "µs", ours, (peer,), floor, f"ratio ≤ {AIM}", met
        ),
        *(
            Figure(
                f"{what} at {deepest} waiting",
                "µs",
                Sample(ours.label, mine),
                (Sample(peer.label, theirs),),
                floor,
            )
            for what, mine, theirs in (
                ("`why`", why, why_short),
                ("`status` view", view, view_short),
                ("a scrape", scrape, scrape_short),
            )
        ),
    ]
