"""The scenarios: which jobs, how they arrive, and whether they slow one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Size
from benchmarks.replay.tables import duration
from benchmarks.replay.traces import (
    CHARGE,
    GENAI,
    T4,
    Job,
    Shape,
    alone,
    as_batch,
    compressed,
    in_blocks,
    jobs_of,
    read,
)

SHAPE = Shape()
#: Offered work of compressed arrivals, as a share of what the GPUs can do: the T4 jobs saturate
#: them, the bursts of the GenAI jobs do from time to time.
T4_LOAD, GENAI_LOAD = 1.2, 0.7
TENANTS = 8


@dataclass(frozen=True, slots=True)
class Scenario:
    """One workload. ``charged``: N shared jobs of a GPU take 1.11 × N as long. ``by_share``: the
    Jain index is of what the tenants get while all of them wait. ``drawn``: the picture has its
    slots and lines, not only its waits.
    """

    name: str
    jobs: Sequence[Job]
    what: str
    charged: bool = False
    by_share: bool = False
    drawn: bool = False
    bounds: bool = False
    """Whether it is also played with other bounds on overtaking."""

    @property
    def title(self) -> str:
        """Its name, and how jobs slow one another."""
        return f"{self.name}, {f'charged {CHARGE} × N' if self.charged else 'as recorded'}"


def scenarios(folder: Path | None, size: Size) -> Iterator[Scenario]:
    """Yield the scenarios of a folder of traces, or of synthetic jobs where it has none."""

    def source(file: str) -> str:
        return "" if folder and (folder / file).exists() else " (synthetic jobs, from a seed)"

    t4 = jobs_of(read(folder, T4, size.of(10_000, 150)))
    users = "The trace names no users, so the Jain index is of jobs."
    for charged in (False, True):
        name = f"T4 as a batch{source(T4)}"
        what = f"{len(t4):,} jobs, all there at the start. {users}"
        if not charged:
            what += (
                " If there were no shared jobs, the exclusive ones would wait"
                f" {duration(alone(t4, SHAPE))} (p99) in order of arrival."
            )
        yield Scenario(name, as_batch(t4), what, charged, drawn=not charged, bounds=not charged)
    for charged in (False, True):
        name = f"T4 as arrived{source(T4)}"
        what = (
            f"{len(t4):,} jobs, their arrivals compressed until the offered work is"
            f" {T4_LOAD:.0%} of what the GPUs can do. {users}"
        )
        arrivals = compressed(t4, SHAPE, T4_LOAD, charged=charged)
        yield Scenario(name, arrivals, what, charged, drawn=charged)
    rows = read(folder, GENAI, size.of(4_000, 200))
    for percent in (10, 20, 30):
        genai = jobs_of(rows, exclusive=percent / 100)
        for charged in (False, True):
            name = f"GenAI, {percent} % exclusive{source(GENAI)}"
            what = (
                f"The first {len(genai):,} jobs, drawn exclusive by a fixed seed, their arrivals"
                f" compressed until the offered work is {GENAI_LOAD:.0%} of what the GPUs can do."
                " Each user is a tenant; what overtakes is counted by arrival."
            )
            arrivals = compressed(genai, SHAPE, GENAI_LOAD, charged=charged)
            yield Scenario(name, arrivals, what, charged)
    blocks = in_blocks(jobs_of(rows[: size.of(2_000, 160)], exclusive=0.2), TENANTS)
    what = (
        f"The first {len(blocks):,} GenAI jobs, 20 % exclusive, as a batch of {TENANTS} equal"
        " tenants, one after the other. The Jain index is of the GPU-seconds that each gets while"
        " all of them wait."
    )
    yield Scenario(f"Equal tenants{source(GENAI)}", blocks, what, by_share=True)
