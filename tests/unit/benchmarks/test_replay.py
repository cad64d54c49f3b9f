"""The simulators of the replay: small cases by hand, and the rules that every schedule keeps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replay.loop import BrokenRule, Played, Start, play
from benchmarks.replay.measures import bypass, jain, measure, shares, speeds
from benchmarks.replay.peers import Fifo, Peer, PhaseFair, WaitForIdle, WaitForIdleClass
from benchmarks.replay.traces import CHARGE, Job, Shape, bound, compressed, in_blocks
from gpuqueue.model.names import EXCLUSIVE, SHARED

ONE = Shape(gpus=1, slots=2)
PEERS = (Fifo, WaitForIdle, WaitForIdleClass, PhaseFair)
S, E = SHARED, EXCLUSIVE


def jobs(*rows: tuple[float, float, str]) -> list[Job]:
    """Jobs from (arrival, duration, isolation)."""
    return [Job(number, *row, f"tenant-{number % 2}") for number, row in enumerate(rows)]


def starts(played: Played) -> list[float]:
    return [run.start for run in played.runs]


@st.composite
def workload(draw: st.DrawFn) -> list[Job]:
    rows = st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from([S, S, E]))
    found = sorted(draw(st.lists(rows, min_size=1, max_size=25)), key=lambda row: row[0])
    return jobs(*((float(arrival), float(run), kind) for arrival, run, kind in found))


# -- schedules by hand -----------------------------------------------------------------------------

#: A shared job runs; an exclusive one waits; two shared ones come later.
WORKLOAD = jobs((0, 10, S), (1, 5, E), (2, 10, S), (3, 10, S), (4, 5, E))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Fifo, [0, 10, 15, 15, 25]),
        (WaitForIdle, [0, 20, 2, 10, 25]),
        (WaitForIdleClass, [0, 20, 2, 10, 25]),
        (PhaseFair, [0, 10, 15, 15, 25]),
    ],
)
def test_a_schedule_on_one_gpu_is_that_of_the_rule(kind: type[Peer], expected: list[float]) -> None:
    played = play(WORKLOAD, kind(ONE), ONE, charged=False)
    assert starts(played) == expected


def test_phases_take_turns_where_strict_order_does_not() -> None:
    """Two exclusive jobs came first; the shared one goes between them."""
    workload = jobs((0, 4, S), (1, 5, E), (1, 5, E), (2, 3, S))
    assert starts(play(workload, PhaseFair(ONE), ONE, charged=False)) == [0, 4, 12, 9]
    assert starts(play(workload, Fifo(ONE), ONE, charged=False)) == [0, 4, 9, 14]


def test_only_as_many_gpus_drain_as_exclusive_jobs_wait() -> None:
    two = Shape(gpus=2, slots=2)
    workload = jobs((0, 10, S), (0, 20, S), (0, 15, S), (1, 5, E), (2, 1, S), (2, 1, S))
    played = play(workload, PhaseFair(two), two, charged=False)
    assert [run.gpu for run in played.runs] == [0, 0, 1, 1, 0, 0]
    assert starts(played) == [0, 0, 0, 15, 10, 11]


def test_one_idle_gpu_is_enough_unless_the_class_is_one_domain() -> None:
    two = Shape(gpus=2, slots=2)
    workload = jobs((0, 10, S), (1, 5, E), (2, 1, S))
    assert starts(play(workload, WaitForIdle(two), two, charged=False)) == [0, 1, 2]
    assert starts(play(workload, WaitForIdleClass(two), two, charged=False)) == [0, 10, 2]


def test_a_shared_job_goes_to_the_fullest_gpu_with_room() -> None:
    two = Shape(gpus=2, slots=3)
    workload = jobs((0, 9, S), (0, 9, S), (0, 2, S), (0, 9, S), (3, 9, S))
    for kind in PEERS:
        played = play(workload, kind(two), two, charged=False)
        assert [run.gpu for run in played.runs] == [0, 0, 0, 1, 0]


def test_a_tick_lets_jobs_start_at_its_multiples_only() -> None:
    played = play(jobs((0.1, 1, S), (0.7, 1, E)), WaitForIdle(ONE), ONE, charged=False)
    assert starts(played) == [0.5, 1.5]


# -- how jobs slow one another ---------------------------------------------------------------------


def test_jobs_slow_one_another_only_while_they_share() -> None:
    """The first runs 10 s alone, then both take 2.22 s a second until the first ends."""
    played = play(jobs((0, 20, S), (10, 20, S)), Fifo(ONE), ONE, charged=True)
    first = 10 + 10 * 2 * CHARGE
    assert [run.end for run in played.runs] == pytest.approx([first, first + 10])


def test_an_exclusive_job_is_not_slowed_down() -> None:
    played = play(jobs((0, 20, E)), Fifo(ONE), ONE, charged=True)
    assert played.runs[0].end == 20


# -- rules of every schedule -----------------------------------------------------------------------


@given(workload(), st.integers(1, 3), st.integers(1, 3), st.sampled_from(PEERS), st.booleans())
def test_every_peer_keeps_isolations_apart_and_ends_all_jobs(
    workload: list[Job], gpus: int, slots: int, kind: type[Peer], charged: bool
) -> None:
    """The loop refuses anything else; see below."""
    shape = Shape(gpus, slots)
    played = play(workload, kind(shape), shape, charged=charged)
    makespan = max(run.end for run in played.runs)
    assert makespan >= bound(workload, shape, charged=charged) - 1e-6
    for gpu in range(gpus):
        held = [
            (run, job) for run, job in zip(played.runs, workload, strict=True) if run.gpu == gpu
        ]
        for run, _ in held:
            beside = [job for other, job in held if other.start <= run.start < other.end - 1e-9]
            assert len(beside) <= slots
            assert len(beside) == 1 or all(job.shares for job in beside)


@given(workload(), st.booleans())
def test_strict_fifo_starts_jobs_in_their_order(workload: list[Job], charged: bool) -> None:
    played = play(workload, Fifo(ONE), ONE, charged=charged)
    assert all(one <= other for one, other in pairwise(starts(played)))
    assert bypass(workload, played, whole=False).in_all == 0


@given(workload())
def test_phase_fair_starts_one_exclusive_job_a_phase(workload: list[Job]) -> None:
    played = play(workload, PhaseFair(ONE), ONE, charged=False)
    assert bypass(workload, played, whole=False).row <= 1


class Careless(Peer):
    """Starts everything at once on the first GPU."""

    label = "careless"

    def _enter(self, job: Job) -> None:
        self._new = [job]

    def decide(self, now: float) -> list[Start]:
        new, self._new = self._new, []
        return [self._start(job, 0) for job in new]


@pytest.mark.parametrize(
    ("kinds", "problem"),
    [([S, E], "beside"), ([E, S], "beside"), ([E, E], "beside"), ([S, S, S], "slots are taken")],
)
def test_a_schedule_that_breaks_a_rule_is_refused(kinds: Sequence[str], problem: str) -> None:
    workload = jobs(*((0.0, 5.0, kind) for kind in kinds))
    with pytest.raises(BrokenRule, match=problem):
        play(workload, Careless(ONE), ONE, charged=False)


def test_a_job_that_never_starts_is_noticed() -> None:
    class Lazy(Careless):
        def decide(self, now: float) -> list[Start]:
            return []

    with pytest.raises(BrokenRule, match="1 jobs have never ended"):
        play(jobs((0, 1, S)), Lazy(ONE), ONE, charged=False)


# -- measures --------------------------------------------------------------------------------------


def test_bypass_counts_later_shared_jobs_of_the_first_exclusive() -> None:
    played = play(WORKLOAD, WaitForIdle(ONE), ONE, charged=False)
    found = bypass(WORKLOAD, played, whole=False)
    assert (found.before_drain, found.in_all, found.row) == (2, 2, 0)


def test_what_overtakes_beside_a_draining_gpu_counts_apart() -> None:
    """The second GPU takes no shared job after the exclusive one came; the first goes on."""
    two = Shape(gpus=2, slots=2)
    workload = jobs((0, 3, S), (0, 30, S), (0, 8, S), (1, 1, E), *[(2, 1, S)] * 4)
    played = play(workload, PhaseFair(two), two, charged=False)
    assert starts(played)[3:] == [8, 3, 4, 5, 6]
    found = bypass(workload, played, whole=False)
    assert (found.before_drain, found.in_all) == (0, 4)
    assert bypass(workload, played, whole=True).before_drain == 4


def test_overtakes_count_until_a_gpu_takes_no_shared_job_more() -> None:
    two = Shape(gpus=2, slots=2)
    workload = jobs((0, 9, S), (0, 3, S), (0, 9, S), (1, 1, E), (2, 9, S), (3.5, 1, S))
    played = play(workload, WaitForIdle(two), two, charged=False)
    assert [run.gpu for run in played.runs] == [0, 0, 1, 0, 1, 0]
    found = bypass(workload, played, whole=False)
    assert (found.before_drain, found.in_all) == (1, 2)


def test_a_gpu_held_by_an_exclusive_job_is_not_taken_for_a_drain() -> None:
    two = Shape(gpus=2, slots=2)
    rows = [(0, 1, S), (2, 99, E), (2, 9, S), (3, 1, E), (4, 9, S), (11, 9, S), (12, 9, S)]
    workload = jobs(*rows)
    played = play(workload, WaitForIdle(two), two, charged=False)
    assert [run.gpu for run in played.runs] == [0, 0, *[1] * 5]
    assert bypass(workload, played, whole=False).before_drain == 3


def test_the_bound_is_that_of_the_work_or_of_one_job() -> None:
    two = Shape(gpus=2, slots=2)
    work = jobs((0, 8, E), (0, 8, E), (0, 8, S), (0, 8, S))
    assert bound(work, two, charged=False) == 12
    assert bound(work, two, charged=True) == 16
    assert bound(jobs((0, 8, E), (5, 30, S)), two, charged=False) == 35
    late = jobs((0, 1, E), (100, 8, E), (100, 8, E), (100, 8, E))
    assert bound(late, two, charged=False) == 112


def test_jain_is_one_for_equals_and_a_share_for_one_winner() -> None:
    assert jain([3, 3, 3]) == pytest.approx(1)
    assert jain([1, 0, 0, 0]) == pytest.approx(0.25)


def test_shares_count_only_while_every_tenant_waits() -> None:
    """One GPU, strict order: the first of two tenants gets all."""
    workload = in_blocks(jobs(*[(0, 10, E)] * 4), 2)
    played = play(workload, Fifo(ONE), ONE, charged=False)
    assert shares(workload, played.runs, ONE) == {"tenant-0": 10, "tenant-1": 0}


def test_measures_of_a_schedule_by_hand() -> None:
    played = play(WORKLOAD, Fifo(ONE), ONE, charged=False)
    found = measure(WORKLOAD, played, ONE, charged=False, whole=False)
    assert found["makespan"] == 30
    assert found["shared wait, mean"] == pytest.approx((0 + 13 + 12) / 3)
    assert found["exclusive wait, p99"] == 21
    assert found["slots used"] == pytest.approx((5 + 5 + 30 / 2) / 30)


def test_arrivals_are_scaled_to_the_load() -> None:
    workload = compressed(jobs((0, 8, E), (1, 8, S), (50, 8, S)), ONE, 0.5, charged=False)
    assert workload[-1].arrival == pytest.approx(32)


def test_speeds_are_of_tenants_or_of_jobs_without_one() -> None:
    rows = [Job(0, 0, 5, E, ""), Job(1, 0, 5, E, ""), Job(2, 0, 10, E, "a"), Job(3, 0, 20, E, "a")]
    found = speeds(rows, play(rows, Fifo(ONE), ONE, charged=False).runs)
    assert found == {"0": 1, "1": 0.5, "a": 0.5}
