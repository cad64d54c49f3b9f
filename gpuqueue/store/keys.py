"""The keys of Redis. Those of one class carry one hash tag, so that they live on one node of a
Redis Cluster.

Every script gets the same ``KEYS``, in the order of :data:`NAMES`; the loader gives each its name
in Lua (``K.jobs``).
"""

from __future__ import annotations

#: The layout: raised when what lies under the keys is no longer what other versions take it for.
#: Executors of application images are older or newer than their dispatcher, so nearly every change
#: has to do without: a new key or field that may be missing keeps the layout.
#: tests/upgrade/test_contract.py holds the rule, docs/operate/upgrades.md says it.
VERSION = 1
PREFIX = f"gpuqueue:{VERSION}:"
#: The layout of what lies in Redis. The one key without a version.
LAYOUT = "gpuqueue:layout"
#: Is there where a dispatcher of before the mark was: then the layout is 1.
UNMARKED = "gpuqueue:1:classes"

#: name in Lua → type and content. ``delivery`` and ``holder`` are as in names.py; times are Unix
#: seconds.
NAMES: dict[str, str] = {
    "jobs": "hash: delivery → record (JSON); a tombstone once the job has ended",
    "messages": "hash: delivery → the whole Celery message (JSON); gone when the job has ended",
    "latest": "hash: task id → its newest delivery, where that is not the first",
    "accepted": "zset: delivery by time of acceptance, until it is in line",
    "delayed": "zset: delivery by the time it may start",
    "waiting_shared": "zset: delivery by rank (priority, then arrival)",
    "waiting_exclusive": "zset: delivery by rank",
    "holders_shared": "zset: holder by time of admission; one slot each",
    "holders_exclusive": "zset: holder by time of admission; one slot each",
    "devices": "hash: holder → index of its GPU (local launcher)",
    "gate": (
        "hash: domain:bypassed and domain:row (bounded bypass), the arrival counter seq, and opened"
    ),
    "expiring": "zset: delivery by its expires",
    "launching": "zset: holder by time of admission, until the launcher has confirmed it",
    "deadlines": "zset: holder by the time at which it is stopped",
    "stopping": "zset: holder by the time somebody asked for its stop",
    "finishing": "zset: delivery by the time from which anybody may take up its finish",
    "ended": "zset: delivery by the time its tombstone is forgotten",
    "counts": "hash: what has happened so far → number, for /metrics (see counts.py)",
    "revoked": "hash: task id → signal, revoked before any dispatcher had it",
    "revoked_until": "zset: task id by the time its entry in revoked is forgotten",
}


#: The same for the verbs in ``lua/lease``.
LEASE_NAMES: dict[str, str] = {"leader": "text: the name of the watcher that leads; it expires"}


def class_prefix(gpu_class: str) -> str:
    """Return the prefix of all keys of a class, with its hash tag."""
    return f"{PREFIX}{{{gpu_class}}}:"


def class_keys(gpu_class: str) -> list[str]:
    """Return the keys of a class in the order that every script expects."""
    prefix = class_prefix(gpu_class)
    return [prefix + name for name in NAMES]


def class_key(gpu_class: str, name: str) -> str:
    """Return one key of a class."""
    if name not in NAMES:
        raise KeyError(name)
    return class_prefix(gpu_class) + name


def log_key(gpu_class: str, holder: str) -> str:
    """Return the key of the end of an attempt's log (text; it expires)."""
    return f"{class_prefix(gpu_class)}log:{holder}"


#: zset: group by the time of the last heartbeat of any dispatcher of it.
GROUPS = PREFIX + "groups"


def leader_key(group: str) -> str:
    """Return the key of a group's lease: its watcher's leader."""
    return f"{PREFIX}leader:{group}"


def wake_key(gpu_class: str) -> str:
    """Return the list that leaders of a class block on: anything pushed wakes one. One hash tag:
    they block on several.
    """
    return f"{PREFIX}{{wake}}:{gpu_class}"


#: hash: class → its settings (JSON), as the newest dispatcher has them; what `status` shows.
CLASSES = PREFIX + "classes"
#: zset: dispatcher (worker name) by the time of its last heartbeat.
DISPATCHERS = PREFIX + "dispatchers"
#: zset: host name by the time of the last heartbeat of any dispatcher there.
HOSTS = PREFIX + "hosts"
#: hash: "header=value" → time; stamps revoked by Celery's revoke_by_stamped_headers.
REVOKED_STAMPS = PREFIX + "revoked_stamps"
