"""The keys in Redis. The keys of one class have one hash tag, so that they are on one node of a
Redis Cluster.

Every script of a class gets the same ``KEYS``, in the order of :data:`NAMES`. The loader names each
in Lua (``K.jobs``).
"""

from __future__ import annotations

#: The layout of the keys. It is raised if other versions would misread them. Executors in
#: application images are older or newer than their dispatcher, so nearly every change must keep the
#: layout: a new key or field may be absent. tests/upgrade/test_contract.py checks this rule of
#: docs/operate/upgrades.md.
VERSION = 1
PREFIX = f"gpuqueue:{VERSION}:"
#: The mark of the layout, the only key without a version.
LAYOUT = "gpuqueue:layout"
#: Exists if a dispatcher ran that set no mark yet: the layout is 1.
UNMARKED = "gpuqueue:1:classes"

#: Name in Lua → type and content. For ``delivery`` see names.py, for ``holder`` attempt.py. Times
#: are Unix seconds.
NAMES: dict[str, str] = {
    "jobs": "hash: delivery → record (JSON); a tombstone once the job has ended",
    "messages": "hash: delivery → the whole Celery message (JSON); gone when the job has ended",
    "latest": "hash: task id → its newest delivery, unless that has the name of the id",
    "accepted": "zset: delivery by time of acceptance, until it is in line",
    "delayed": "zset: delivery by the time it may start",
    "waiting_shared": "zset: delivery by rank (priority, then arrival)",
    "waiting_exclusive": "zset: delivery by rank",
    "holders_shared": "zset: holder by time of admission; one slot each",
    "holders_exclusive": "zset: holder by time of admission; one slot each",
    "holders_further": (
        "zset: the slots of exclusive holders beyond the first, and a mark (see lua/lib/slots.lua)"
    ),
    "devices": "hash: holder, or further slot of one → index of its GPU (local launcher)",
    "gate": (
        "hash: domain:bypassed, domain:row (bounded bypass), domain:until (backfill), the arrival"
        " counter seq, opened and opened_on; of a class of several domains also domains, drained,"
        " until and shares; gpus, in the order of their indexes; order and the counters of"
        " lua/lib/tenants.lua; several, sizes, reserved, reserved_for and strict, for jobs of"
        " several GPUs; nodes_of, the cluster whose nodes they are"
    ),
    "expiring": "zset: delivery by its expires",
    "launching": "zset: holder by the time of its launch, until the launcher has confirmed it",
    "deadlines": "zset: holder by the time at which it is stopped",
    "stopping": "zset: holder by the time at which its stop was requested",
    "finishing": "zset: delivery by the time from which any finisher may take it",
    "ended": "zset: delivery by the time at which its tombstone is forgotten",
    "counts": "hash: event → how often it has happened, for /metrics (see counts.py)",
    "revoked": "hash: task id → signal; for deliveries that are not accepted yet",
    "revoked_until": "zset: task id by the time at which its entry in revoked is forgotten",
    "repeats": (
        "zset: task id, NUL, delivery, in alphabetical order; each delivery but the first of its"
        " task, until it ends"
    ),
    "damaged": "hash: what was set aside since no script can read it (key:name) → its text",
    "places": (
        "hash: GPU, host, application or node that fails jobs → its failures (JSON, see"
        " lua/lib/places.lua)"
    ),
    "terms": (
        "hash: host, or owner of pods → by which terms its dispatchers admit jobs, and until when"
        " these hold (JSON, see lua/announce.lua)"
    ),
    "warm": (
        "hash: pod that waits for a job, by its instance → what it can run (JSON, see"
        " lua/lib/waiting_pods.lua)"
    ),
    "warm_until": "zset: such a pod by the time at which it is forgotten",
    "domains": "hash: domain → its slots (JSON, see lua/lib/domains.lua); none: the class is one",
    "history": "zset: what an attempt has used (JSON) by when its slot was freed (microseconds)",
    "capacity": "zset: domains, slots and price (JSON) by the time from which they hold",
    "usage": "hash: what attempts have used, summed up (see lua/lib/accounting.lua)",
    "run_times": (
        "hash: isolation:tenant:task, or isolation:*:task of all tenants → how long its latest"
        " attempts held their slots, in seconds (JSON)"
    ),
    "run_times_last": "zset: such a name by the time at which its latest attempt ended",
    "profiles": (
        "hash: application, or application@image → what it says of its broker and results (JSON,"
        " see model/profile.py)"
    ),
    "tenants": "hash: =tenant → what it has used (JSON); #id → tenant (see lua/lib/tenants.lua)",
    "tenant_rules": "hash: =tenant, or * for all others → its rule (JSON); half_life, epoch, share",
    "tenant_jobs": (
        "zset: isolation, priority, arrival and delivery by tenant; d:delivery of a delayed job"
    ),
    "tenant_order": "zset: place and name of a tenant whose jobs may start, by isolation",
    "tenant_running": "zset: holder by tenant",
    "tenant_charged": "zset: holder by the time up to which its tenant is charged",
    "tenant_idle": "zset: =tenant without jobs, by the time at which it is forgotten",
    "task_memory": "hash: [tenant, task] → GPU memory used (JSON, see lua/lib/task_memory.lua)",
    "task_memory_at": "zset: [tenant, task] by the time of its last job",
}


#: The keys of a class that has work for its watcher in each turn. The other keys wait for a time.
BUSY = (
    "accepted",
    "waiting_shared",
    "waiting_exclusive",
    "holders_shared",
    "holders_exclusive",
    "stopping",
    "finishing",
)
#: The same for the verbs in ``lua/lease``.
LEASE_NAMES: dict[str, str] = {"leader": "text: the name of the watcher that leads; it expires"}


#: The keys of the dead letters, on the Redis of the broker.
LETTER_NAMES: dict[str, str] = {
    "letters": "hash: letter → {id, queue, message, tries, first, last, error} (JSON)",
    "times": "zset: letter by the time at which it was set aside",
}
#: The keys of a queue's messages in hand, on the Redis of the broker. A number grows with
#: each message, and names the list; a hand is the process that holds some, and the call that took
#: them.
HAND_NAMES: dict[str, str] = {
    "last": "text: the number given last",
    "texts": "hash: number → the message, as its sender wrote it",
    "leases": "zset: number by the time from which any dispatcher may take it",
    "hands": "hash: number → hand",
    "tries": "hash: number → {tries, first, error} (JSON), of messages whose acceptance has failed",
}


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


def bell_key(gpu_class: str, instance: str) -> str:
    """Return the zset that a pod without a job blocks on; any element wakes it."""
    return f"{class_key(gpu_class, 'warm')}:{instance}"


def gone_key(gpu_class: str) -> str:
    """Return the hash of the nodes that an operator has confirmed gone: node → when."""
    return f"{class_prefix(gpu_class)}gone"


def usage_key(gpu_class: str, day: str) -> str:
    """Return the hash of what attempts have used on a past day: days since 1970, or "older"."""
    return f"{class_key(gpu_class, 'usage')}:{day}"


def log_key(gpu_class: str, holder: str) -> str:
    """Return the key of the end of an attempt's log (text; it expires)."""
    return f"{class_prefix(gpu_class)}log:{holder}"


def due_logs_key(gpu_class: str) -> str:
    """Return the hash of the whole logs that are to be written: holder → note (JSON, see
    store/whole_logs.py).
    """
    return f"{class_prefix(gpu_class)}logs:due"


def missing_logs_key(gpu_class: str) -> str:
    """Return the zset of the attempts whose whole log is missing: holder by time."""
    return f"{class_prefix(gpu_class)}logs:missing"


def whole_log_key(gpu_class: str, holder: str) -> str:
    """Return the key of what became of an attempt's whole log (JSON; it expires)."""
    return f"{class_prefix(gpu_class)}log_sink:{holder}"


#: zset: group by the time of the last heartbeat of any dispatcher of it.
GROUPS = PREFIX + "groups"


def leader_key(group: str) -> str:
    """Return the key of the lease of a group's leading watcher."""
    return f"{PREFIX}leader:{group}"


def wake_key(gpu_class: str) -> str:
    """Return the list that the leader of a class blocks on; any element wakes it. The lists of all
    classes have one hash tag, since a leader blocks on several.
    """
    return f"{PREFIX}{{wake}}:{gpu_class}"


def letter_keys(prefix: str = "") -> list[str]:
    """Return the keys of the dead letters. ``prefix``: that of all keys of the broker."""
    return [f"{prefix}{PREFIX}{{dead}}:{name}" for name in LETTER_NAMES]


def hand_keys(queue: str, prefix: str = "") -> list[str]:
    """Return the keys of a queue's messages in hand. In a Redis Cluster they are on the node of the
    list of the queue.
    """
    return [f"{prefix}{PREFIX}{{{prefix}{queue}}}:{name}" for name in HAND_NAMES]


def revoking_key(gpu_class: str, revoke: str) -> str:
    """Return the key that lets one dispatcher alone look for the jobs of a stamped revoke (text; it
    expires).
    """
    return f"{PREFIX}revoking:{gpu_class}:{revoke}"


#: hash: class → its settings (JSON), as the newest dispatcher announced them; `status` shows them.
CLASSES = PREFIX + "classes"
#: hash: mark of a cluster → its owner, the name on every Job of this queue there.
OWNERS = PREFIX + "owners"
#: zset: dispatcher (worker name) by the time of its last heartbeat.
DISPATCHERS = PREFIX + "dispatchers"
#: zset: host name by the time of the last heartbeat of any dispatcher there.
HOSTS = PREFIX + "hosts"
#: zset: queue by the time of the last heartbeat of any dispatcher that takes its messages.
CONSUMED = PREFIX + "consumed"
#: hash: "header=value" → time; stamps revoked by Celery's revoke_by_stamped_headers.
REVOKED_STAMPS = PREFIX + "revoked_stamps"
