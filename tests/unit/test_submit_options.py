"""``gpu(...)`` returns options, and refuses invalid values."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.errors import InvalidJob
from gpuqueue.submit import gpu

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing: the dispatcher chooses a class": ({}, {"queue": "gpu.auto", "headers": {"gpu": {}}}),
    "a class": ({"gpu_class": "t4"}, {"queue": "gpu.t4", "headers": {"gpu": {}}}),
    "an isolation, which is part of the queue name": (
        {"gpu_class": "t4", "isolation": "exclusive"},
        {"queue": "gpu.t4.exclusive", "headers": {"gpu": {"isolation": "exclusive"}}},
    ),
    "an isolation with auto, in the header": (
        {"isolation": "shared"},
        {"queue": "gpu.auto", "headers": {"gpu": {"isolation": "shared"}}},
    ),
    "a MIG profile, whose queue has no isolation": (
        {"gpu_class": "mig-1g.5gb", "isolation": "exclusive"},
        {"queue": "gpu.mig-1g.5gb", "headers": {"gpu": {"isolation": "exclusive"}}},
    ),
    "memory as text, sent as bytes": (
        {"gpu_class": "mig", "memory": "4GiB", "slices": 2},
        {"queue": "gpu.mig", "headers": {"gpu": {"memory": 4 * 2**30, "slices": 2}}},
    ),
    "several GPUs, which are for one job alone": (
        {"gpu_class": "a100", "gpus": 4},
        {"queue": "gpu.a100", "headers": {"gpu": {"gpus": 4}}},
    ),
    "how many jobs a process may run": (
        {"gpu_class": "t4", "reuse": 10},
        {"queue": "gpu.t4", "headers": {"gpu": {"reuse": 10}}},
    ),
    "seconds that a pod may wait for another job": (
        {"gpu_class": "t4", "warm": 0.5},
        {"queue": "gpu.t4", "headers": {"gpu": {"warm": 0.5}}},
    ),
    "a pod that ends with its job in any class": (
        {"gpu_class": "t4", "warm": 0},
        {"queue": "gpu.t4", "headers": {"gpu": {"warm": 0}}},
    ),
    "a list of classes, in the header": (
        {"gpu_class": ("mig-1g.5gb", "t4"), "isolation": "exclusive"},
        {
            "queue": "gpu.auto",
            "headers": {"gpu": {"isolation": "exclusive", "classes": ["mig-1g.5gb", "t4"]}},
        },
    ),
    "a larger place for a job out of memory": (
        {"gpu_class": "t4", "escalate": True},
        {"queue": "gpu.t4", "headers": {"gpu": {"escalate": True}}},
    ),
    "no larger place": (
        {"gpu_class": "t4", "escalate": False},
        {"queue": "gpu.t4", "headers": {"gpu": {}}},
    ),
    "headers of the caller": (
        {"gpu_class": "t4", "headers": {"trace": "x"}, "priority": 3},
        {"queue": "gpu.t4", "headers": {"trace": "x", "gpu": {}}, "priority": 3},
    ),
}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a queue in addition": (
        {"queue": "celery"},
        "queue='celery' contradicts gpu(...); leave it out: gpu() sets the queue",
    ),
    "a time limit of 0": (
        {"time_limit": 0},
        "time_limit=0 is not a number of seconds; use a number above 0",
    ),
    "text for a soft limit": (
        {"soft_time_limit": "1h"},
        "soft_time_limit='1h' is not a number of seconds",
    ),
    "a time limit that no clock has": (
        {"time_limit": float("inf")},
        "time_limit=inf is not a number of seconds; use a number above 0, and up to 1000000000",
    ),
    "no number for a soft limit": ({"soft_time_limit": float("nan")}, "soft_time_limit=nan is not"),
    "a list of classes by its field": (
        {"gpu_class": "auto", "classes": ["t4"]},
        "classes=['t4'] is no option; use gpu(['t4', ...])",
    ),
    "headers that are none": ({"headers": "x"}, "headers='x' is not a dict; use e.g."),
    "a queue for a class": (
        {"gpu_class": "gpu.t4.shared"},
        "gpu_class='gpu.t4.shared' is the name of a queue; use e.g. 't4', with isolation='shared'",
    ),
    "a class in capitals": ({"gpu_class": "T4"}, "gpu_class='T4' cannot name a class"),
    "a number for a class": ({"gpu_class": 4}, "gpu_class=4 cannot name a class"),
    "an empty list of classes": ({"gpu_class": []}, "gpu.classes=[] is empty; list 1 to 16"),
    "text for a truth": (
        {"escalate": "yes"},
        "gpu.escalate='yes' is not a truth value; use true or false",
    ),
    "a negative number of jobs": (
        {"reuse": -1},
        "gpu.reuse=-1 is not a number of jobs; use 0 to 1000000",
    ),
    "a truth for a number of jobs": ({"reuse": True}, "gpu.reuse=True is not a number of jobs"),
    "an unknown isolation": ({"isolation": "both"}, "gpu.isolation='both' is unknown"),
}


@pytest.mark.parametrize(("arguments", "options"), OPTIONS.values(), ids=OPTIONS)
def test_options_for_arguments(arguments: dict[str, Any], options: dict[str, Any]) -> None:
    assert gpu(**arguments) == options


@pytest.mark.parametrize(("arguments", "text"), WRONG.values(), ids=WRONG)
def test_invalid_argument_is_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        gpu(**arguments)
    assert text in str(caught.value)


def test_headers_of_the_caller_stay_unchanged() -> None:
    headers = {"trace": "x"}
    gpu("t4", headers=headers)
    assert headers == {"trace": "x"}
