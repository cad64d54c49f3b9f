"""DESIGN.md's invariants, read from Redis itself after every step."""

from __future__ import annotations

import json
from typing import Any

from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import EXCLUSIVE, ISOLATIONS, SHARED
from gpuqueue.model.states import JobState
from gpuqueue.store.counts import parse
from gpuqueue.store.keys import NAMES, class_keys
from tests.property.entrance import CLASS
from tests.property.model import HOLDING
from tests.property.world import World


def look(world: World) -> dict[str, Any]:
    """Return all keys of the class in one look: name → hash, or member → score."""
    pipe = world.client.pipeline(transaction=True)
    for name, key in zip(NAMES, class_keys(CLASS), strict=True):
        if NAMES[name].startswith("hash"):
            pipe.hgetall(key)
        else:
            pipe.zrange(key, 0, -1, withscores=True)
    found = zip(NAMES, pipe.execute(), strict=True)
    return {name: value if isinstance(value, dict) else dict(value) for name, value in found}


def check(world: World) -> None:
    """All invariants, and that no key mentions a delivery whose state does not fit."""
    keys = look(world)
    records = {delivery: json.loads(text) for delivery, text in keys["jobs"].items()}
    holders = {isolation: set(keys[f"holders_{isolation}"]) for isolation in ISOLATIONS}
    check_slots(world, holders)
    check_further(world, set(keys["holders_further"]))
    check_pods(world, keys, records, holders)
    check_devices(world, keys["devices"], holders)
    check_states(world, keys, records)
    everybody = holders[SHARED] | holders[EXCLUSIVE]
    for delivery, record in records.items():
        if record["state"] in HOLDING:
            assert Attempt(CLASS, delivery, record["attempt"]).holder in everybody, (
                "who runs, or may, holds a slot"
            )
    check_clocks(world, keys, everybody)
    for name in ("launching", "deadlines", "stopping", "devices"):
        assert set(keys[name]) <= everybody, f"{name} mentions only holders"


def check_slots(world: World, holders: dict[str, set[str]]) -> None:
    """Invariants 1 to 3: slots in use = number of holders; never both kinds; a holder leaves only
    by release.
    """
    model = world.model
    for isolation in ISOLATIONS:
        in_use = model.held(isolation)
        expected = {
            Attempt(CLASS, *holder).holder
            for holder, kind in model.holders.items()
            if kind == isolation
        }
        assert holders[isolation] == expected
        world.limits[isolation] = max(
            model.rules.slots(isolation), min(world.limits[isolation], in_use)
        )
        assert in_use <= world.limits[isolation]
    world.mixed = world.mixed and all(holders.values())
    assert world.mixed or not (holders[SHARED] and holders[EXCLUSIVE]), (
        "shared and exclusive never meet"
    )


def check_further(world: World, found: set[str]) -> None:
    """A job of several GPUs has a slot for each, for as long as it holds the first."""
    model = world.model
    assert found - {"."} == {
        f"{Attempt(CLASS, *holder).holder}/{at}"
        for holder in model.holders
        for at in range(2, model.slots_of(holder) + 1)
    }


def check_pods(
    world: World, keys: dict[str, Any], records: dict[str, Any], holders: dict[str, set[str]]
) -> None:
    """A pod that waits has no job, and all pods have a share each."""
    pods = world.model.pods
    assert keys["warm_until"] == pods.until
    assert set(keys["warm"]) == set(pods.known)
    total = len(pods.until) + world.model.in_use
    world.most_pods = max(world.model.rules.shares, min(world.most_pods, total))
    assert total <= world.most_pods
    running = [each.get("instance") for each in records.values() if each["state"] in HOLDING]
    assert not set(pods.until) & set(running), "a pod that waits holds no slot"


def check_clocks(world: World, keys: dict[str, Any], holders: set[str]) -> None:
    """Invariant 10: every slot is held until a time, or is looked after: its launch is repeated, or
    its process is being stopped.
    """
    for holder in holders - {*keys["launching"], *keys["deadlines"], *keys["stopping"]}:
        attempt = Attempt.parse(CLASS, holder)
        assert attempt is not None
        job = world.model.jobs[attempt.delivery]
        # The one slot without a clock: a task runs that has no time limit.
        assert (job.attempt, job.state) == (attempt.number, JobState.RUNNING), holder
        assert job.loaded and not job.time_limit, f"{holder} has a clock until it is loaded"


def check_devices(world: World, devices: dict[str, str], holders: dict[str, set[str]]) -> None:
    """An exclusive job is alone on its GPU, and every holder that was dealt one has one that is
    there.
    """
    if world.redealt or not world.model.rules.devices:
        return
    alone = [devices[holder] for holder in holders[EXCLUSIVE] if holder in devices]
    assert len(set(alone)) == len(alone)
    assert all(0 <= int(index) < world.model.rules.devices for index in devices.values())


def check_states(world: World, keys: dict[str, Any], records: dict[str, Any]) -> None:
    """Each state is in the key that stands for it, and nowhere else; the message goes when the job
    ends.
    """
    jobs = world.model.jobs
    assert {delivery: record["state"] for delivery, record in records.items()} == {
        name: job.state for name, job in jobs.items()
    }

    def of(*states: JobState) -> set[str]:
        return {delivery for delivery, job in jobs.items() if job.state in states}

    assert keys["latest"] == world.model.newest
    assert set(keys["accepted"]) == of(JobState.ACCEPTED)
    assert set(keys["delayed"]) == of(JobState.DELAYED)
    assert set(keys["finishing"]) == of(JobState.FINISHING)
    assert set(keys["ended"]) == of(JobState.ENDED)
    for isolation in ISOLATIONS:
        assert set(keys[f"waiting_{isolation}"]) == {
            job.delivery for job in world.model.waiting(isolation)
        }
    in_line = of(JobState.DELAYED, JobState.WAITING)
    assert set(keys["expiring"]) == {
        delivery for delivery in in_line if jobs[delivery].expires is not None
    }
    assert set(keys["messages"]) == {
        name for name, job in jobs.items() if job.has_message and job.state != JobState.ENDED
    }
    assert sum(parse(keys["counts"]).ended.values()) == len(of(JobState.ENDED)), (
        "each end is counted, once"
    )
    for delivery in of(JobState.ENDED):
        assert world.ends[delivery] == 1, "a job ends once"
        assert records[delivery]["reason"] == jobs[delivery].reason
    for holder in keys["launching"]:
        attempt = Attempt.parse(CLASS, holder)
        assert attempt is not None
        job = jobs[attempt.delivery]
        assert (job.state, job.attempt) == (JobState.LAUNCHING, attempt.number)
