"""Which of the classes that fit a job it gets: where it starts at once, else soonest."""

from __future__ import annotations

from gpuqueue.classes.choose import Room, choose
from gpuqueue.classes.gpu_class import GpuClass

A = GpuClass("a", shared_slots=4)
B = GpuClass("b", exclusive_slots=2)
C = GpuClass("c", exclusive_slots=1)
ALL = [A, B, C]
Rooms = dict[str, Room]
#: Each class without a free slot, with so many jobs in line per slot: 2, 1, 3.
BUSY: Rooms = {
    "a": Room(starts=False, held=False, waiting=7, slots=4),
    "b": Room(starts=False, held=False, waiting=1, slots=2),
    "c": Room(starts=False, held=False, waiting=2, slots=1),
}


def chosen(rooms: Rooms, classes: list[GpuClass] = ALL, **runs: float) -> str:
    return choose(classes, None, lambda name, _: rooms[name], lambda name, _: runs.get(name)).name


def test_the_first_class_where_it_starts_at_once_is_chosen() -> None:
    rooms = BUSY | {each: BUSY[each]._replace(starts=True) for each in ("b", "c")}
    assert chosen(rooms) == "b"
    assert chosen(rooms, [C, B, A]) == "c"


def test_no_class_behind_the_first_where_it_starts_is_asked() -> None:
    asked: list[tuple[str, str]] = []

    def room(name: str, isolation: str) -> Room:
        asked.append((name, isolation))
        return BUSY[name]._replace(starts=name == "b")

    assert choose(ALL, None, room) is B
    assert asked == [("a", "shared"), ("b", "exclusive")]


def test_else_the_class_with_the_fewest_waiting_jobs_per_slot_is_chosen() -> None:
    assert chosen(BUSY) == "b"
    assert chosen(BUSY | {"b": BUSY["b"]._replace(waiting=5)}) == "a"


def test_the_first_wins_if_all_are_expected_to_start_it_equally_soon() -> None:
    rooms = {
        each.name: Room(starts=False, held=False, waiting=2 * slots - 1, slots=slots)
        for each, slots in ((A, 4), (B, 2), (C, 1))
    }
    assert [chosen(rooms), chosen(rooms, [C, B, A])] == ["a", "c"]


def test_the_class_whose_jobs_end_soonest_is_chosen() -> None:
    assert chosen(BUSY, a=60, b=7200, c=7200) == "a"
    assert chosen(BUSY, a=60, b=20) == "b"
    assert chosen(BUSY, a=60) == "b", "where none has run, as in the other classes"


def test_a_class_that_is_held_comes_last_however_few_wait_there() -> None:
    held = Room(starts=False, held=True, waiting=0, slots=4)
    assert chosen(BUSY | {"a": held, "b": held}) == "c"
    assert chosen(dict.fromkeys("abc", held), [C, B, A]) == "c", "all are: as if none were"
