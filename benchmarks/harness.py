"""Common to all benchmarks: samples, figures, alternating runs. Pure except for the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Size:
    """The amount to measure. ``of(full, quick)`` selects one of two sizes."""

    quick: bool = False

    def of(self, full: int, quick: int) -> int:
        """Return the size for this run."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one side: a value per repeat, and their median (or ``value``, if it covers all
    repeats together).
    """

    label: str
    values: tuple[float, ...]
    value: float | None = None

    @property
    def middle(self) -> float:
        """The representative value."""
        return statistics.median(self.values) if self.value is None else self.value

    def shape(self) -> dict[str, Any]:
        """Return it for JSON."""
        spread = [min(self.values), max(self.values)]
        return {
            "label": self.label,
            "median": self.middle,
            "spread": spread,
            "repeats": len(self.values),
            "values": self.values,
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report. ``aim`` is the target, and ``met`` whether this run reached it; None
    if there is no aim.
    """

    name: str
    unit: str
    ours: Sample
    peers: tuple[Sample, ...] = ()
    floor: Sample | None = None
    aim: str = ""
    met: bool | None = None
    note: str = ""

    @property
    def ratios(self) -> tuple[float | None, ...]:
        """Ours ÷ each peer; see :func:`ratio`."""
        return tuple(ratio(self.ours, peer) for peer in self.peers)

    def shape(self) -> dict[str, Any]:
        """Return it for JSON."""
        peers = [
            {**peer.shape(), "ratio": each}
            for peer, each in zip(self.peers, self.ratios, strict=True)
        ]
        floor = self.floor.shape() if self.floor else None
        said = {"aim": self.aim or None, "met": self.met, "note": self.note or None}
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours.shape(),
            "peers": peers,
            "floor": floor,
            **said,
        }


def ratio(ours: Sample, peer: Sample) -> float | None:
    """Ours ÷ peer: the median over pairs of adjacent repeats, if there are pairs; None if the peer
    is 0.
    """
    paired = len(ours.values) == len(peer.values) and ours.value is None and peer.value is None
    if paired and all(peer.values):
        return statistics.median(
            mine / theirs for mine, theirs in zip(ours.values, peer.values, strict=True)
        )
    return ours.middle / peer.middle if peer.middle else None


def alternate(
    repeats: int, *measures: Callable[[], float], warm: bool = True
) -> list[tuple[float, ...]]:
    """Run A, B, C, A, B, C… and return the values of each, so that other load on the machine
    affects all of them.
    """
    if warm:
        for measure in measures:
            measure()
    rounds = [[measure() for measure in measures] for _ in range(repeats)]
    return [tuple(column) for column in zip(*rounds, strict=True)]


def rate(times: int, step: Callable[[], object]) -> float:
    """Return how many times per second ``step`` runs."""
    begun = time.perf_counter()
    for _ in range(times):
        step()
    return times / (time.perf_counter() - begun)


def cost(times: int, step: Callable[[], object]) -> float:
    """Return the median time of one ``step`` in microseconds, which ignores outliers."""
    return statistics.median(timed(step) for _ in range(times)) * 1e6


def timed(step: Callable[[], object]) -> float:
    """Return how long ``step`` takes, in seconds."""
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; ``share`` is 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def until(
    condition: Callable[[], object], what: str, seconds: float = 60.0, pause: float = 0.005
) -> None:
    """Wait for a condition; raise TimeoutError if it does not become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)
