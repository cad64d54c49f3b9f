"""From wherever a schedule has stopped, the repair verbs lead every job to its end (invariants 4
and 6).

This knows only what a watcher knows: what Redis says, and which processes run.
"""

from __future__ import annotations

from gpuqueue.model.states import JobState
from gpuqueue.store.counts import parse
from gpuqueue.store.upkeep import TICK_BATCH
from gpuqueue.store.usage import Usage
from tests.property.checks import check, look
from tests.property.entrance import CLASS, KEEP
from tests.property.world import World

#: Turns that are enough for any job: each turn is one repair of every kind. A job has two attempts,
#: each with a start that times out and a pause, and waits for all that are ahead of it.
TURNS_A_JOB, TURNS = 12, 120
#: What stays for good: of a size that does not grow.
KEPT = {"gate", "counts", "terms", "history", "usage", "run_times", "run_times_last"}
#: Of jobs of several GPUs a mark stays; see check_further.
KEPT |= {"holders_further"}


def drain(world: World) -> None:
    """Play the watcher until all jobs have ended, in a bounded number of turns; nothing may be left
    behind.
    """
    for process in list(world.waiters):
        if process in world.processes:
            world.look(process, leaves=True)
    for turn in range(TURNS + TURNS_A_JOB * len(world.model.jobs)):
        if (
            all(job.state == JobState.ENDED for job in world.model.jobs.values())
            and not world.model.holders
        ):
            break
        _turn(world, turn)
        check(world)
    assert {
        job.delivery: job.state for job in world.model.jobs.values() if job.state != JobState.ENDED
    } == {}
    assert world.model.holders == {}
    assert world.ends == dict.fromkeys(world.model.jobs, 1), "every job ended, and ended once"
    left = look(world)
    assert {name for name, value in left.items() if value} <= {
        "jobs",
        "places",
        "latest",
        "ended",
        "revoked",
        "revoked_until",
        *("warm", "warm_until"),  # of pods that have fallen silent
        *KEPT,
    }
    _check_accounts(world)
    world.now += KEEP + 20_000
    for _ in range(1 + len(world.model.jobs) // TICK_BATCH):  # a tick is short
        world.line.tick(CLASS)
    left = look(world)
    assert {name for name, value in left.items() if value} <= KEPT, (
        "tombstones and marks are forgotten in time"
    )


def _check_accounts(world: World) -> None:
    """Each attempt that got a slot has left one entry."""
    entries = [(each.delivery, each.attempt) for each in Usage(world.client).of(CLASS, 0).entries]
    assert len(entries) == len(set(entries))
    waits = parse(look(world)["counts"]).wait.values()
    assert len(entries) >= sum(dict(each.buckets)["+Inf"] for each in waits)


def _turn(world: World, turn: int) -> None:
    world.now += 6
    world.tick()
    world.admit()
    todo = world.reader.todo(CLASS, world.now)
    for delivery, _ in todo.accepted:
        world.enqueue(delivery)
    for delivery, _ in todo.finishing:
        world.finish_claim(delivery, f"drain{turn}", 10)
        world.finished(delivery, f"drain{turn}")
    for job in list(world.model.jobs.values()):
        waits = job.state in (JobState.WAITING, JobState.DELAYED)
        if waits and job.gpus > world.model.rules.slots(job.isolation):
            world.cancel(job.id, True)  # nothing else can end it while its class has no slots
    live = {process.told.attempt: process for process in world.processes}
    for attempt, _ in world.reader.holders(CLASS):
        process = live.get(attempt)
        record = world.reader.record(CLASS, attempt.delivery) or {}
        known = record.get("instance", "") if record.get("attempt") == attempt.number else ""
        if (
            process is None
            and not known
            and record.get("state") == "launching"
            and not record.get("cancel")
        ):
            found = world.line.relaunch(attempt, 5)
            if found:
                world.launched(world.spawn(found))
        elif process is None or (known and all(each.instance != known for each in world.processes)):
            world.release(attempt.delivery, attempt.number, known, "INFRA", True)
    for process in list(world.processes):
        if world.claim(process, process.told) and world.report(process, process.told, "SUCCEEDED"):
            world.reported(process, process.told)
        world.processes.remove(process)
        world.release(process.delivery, process.attempt, process.instance, "INFRA", True)
