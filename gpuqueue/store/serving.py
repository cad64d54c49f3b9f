"""Which classes live dispatchers serve, and what the state has of the other ones. Nothing here
changes anything.
"""

from __future__ import annotations

from collections.abc import Iterable

import redis

from gpuqueue.model.names import ISOLATIONS
from gpuqueue.store.clock import redis_time
from gpuqueue.store.keys import CLASSES, GROUPS, class_key
from gpuqueue.store.lease import classes_of

#: Seconds since its last heartbeat within which a dispatcher counts as alive: it has one about each
#: second.
ALIVE = 15.0
#: The keys that have the jobs of a class that have not ended. A job that moves meanwhile counts
#: twice or not at all.
_LIVE = (
    "accepted",
    "delayed",
    *(f"waiting_{each}" for each in ISOLATIONS),
    *(f"holders_{each}" for each in ISOLATIONS),
    "finishing",
)


def unserved(client: redis.Redis, silence: float) -> list[str]:
    """Return the classes whose dispatchers all had their last heartbeat more than ``silence``
    seconds ago.
    """
    since = redis_time(client) - silence
    pipe = client.pipeline(transaction=False)
    pipe.hkeys(CLASSES)
    pipe.zrangebyscore(GROUPS, since, "+inf")
    known, groups = pipe.execute()
    served = {name for group in groups for name in classes_of(group)}
    return sorted(set(known) - served)


def live_jobs(client: redis.Redis, classes: Iterable[str]) -> dict[str, int]:
    """Return class → number of its jobs that wait, run or end; no class without jobs."""
    names = list(classes)
    pipe = client.pipeline(transaction=False)
    for name in names:
        for key in _LIVE:
            pipe.zcard(class_key(name, key))
    counted = pipe.execute()
    step = len(_LIVE)
    totals = {name: sum(counted[at * step : (at + 1) * step]) for at, name in enumerate(names)}
    return {name: total for name, total in totals.items() if total}
