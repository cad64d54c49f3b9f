"""What dispatchers, executors and command lines of several versions hold in common, as the gpuqueue
on PYTHONPATH has it.

``python contract.py`` prints it as JSON; contract-0.1.0.json is what it printed for commit 34541e3.
Needs nothing of the tests.
"""

from __future__ import annotations

import json
from typing import Any, get_type_hints

from gpuqueue.launchers.kubernetes.manifest.context import ManifestContext
from gpuqueue.launchers.kubernetes.manifest.environment import executor_variables
from gpuqueue.launchers.kubernetes.manifest.job import common_environment
from gpuqueue.launchers.kubernetes.manifest.names import (
    annotations_of,
    instance_of,
    job_name,
    labels,
)
from gpuqueue.model import ends, names
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.reasons import EndReason
from gpuqueue.model.record import Record
from gpuqueue.model.request import HEADER, REQUEST_FIELDS
from gpuqueue.model.states import JobState
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.store import keys

try:
    from gpuqueue.dispatcher.choose_launcher import executor_environment
except ModuleNotFoundError:  # versions before this one
    from gpuqueue.dispatcher.assemble import executor_environment  # type: ignore[attr-defined,no-redef]

_RECORD: Any = {
    "delivery": "j~1", "id": "j", "task": "shop.train", "name": "train",
    "gpu_class": "t4", "isolation": "shared", "attempt": 2, "token": "secret",
    "retries": 1, "nesting": 1, "tenant": "vision", "time_limit": 60.0, "image": "shop:1",
}  # fmt: skip


def contract() -> dict[str, Any]:
    """Return it: lists may grow, and no entry of a mapping may change."""
    local = executor_environment(Settings(broker_url="redis://h/0", app="shop"))
    pods = [
        each["name"]
        for each in executor_variables(
            _RECORD, "ns/job", common_environment(ManifestContext("ns", "owner", "shop")), "s"
        )
    ]
    return {
        "keys": {
            "class": keys.class_key("t4", "jobs"),
            "log": keys.log_key("t4", "j#1"),
            "leader": keys.leader_key("group"),
            "wake": keys.wake_key("t4"),
            "groups": keys.GROUPS,
            "classes": keys.CLASSES,
            "dispatchers": keys.DISPATCHERS,
            "hosts": keys.HOSTS,
            "consumed": keys.CONSUMED,
            "revoked_stamps": keys.REVOKED_STAMPS,
        },
        "keys of a class": {name: text.partition(":")[0] for name, text in keys.NAMES.items()},
        "fields of a record": {
            name: kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
            for name, kind in get_type_hints(Record).items()
        },
        "states": {str(state): state.name for state in JobState},
        "ends": {str(reason): reason.name for reason in EndReason},
        "names": {
            "delivery": names.delivery_name("j", 2, 1),
            "holder": Attempt("t4", "j~2", 3).holder,
            "worker": Attempt("t4", "j", 1).worker("host"),
            "job": job_name("owner", _RECORD),
            "instance": instance_of("ns", "job", "uid"),
        },
        "labels": labels("owner", "attempt", _RECORD),
        "annotation": {
            name: json.loads(text) for name, text in annotations_of("owner", _RECORD).items()
        },
        "told to local executors": sorted(local),
        "told to executors in pods": sorted(pods),
        "exit statuses": {
            name: int(value) for name, value in vars(ends).items() if name.startswith("EXIT_")
        },
        "header": {HEADER: list(REQUEST_FIELDS)},
    }


if __name__ == "__main__":
    print(json.dumps(contract(), indent=1, sort_keys=True))
