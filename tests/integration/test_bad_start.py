"""A dispatcher that cannot work says why on standard error and ends within seconds with a status
that is not 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.integration
UNREACHABLE = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def url():
    with EmbeddedRedis() as server:
        yield server.url


def start(env, *arguments):
    """Start a dispatcher that is expected to end; answers its status and its output."""
    ours = ("GPU", "T4_", "MIG_", "CELERY")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [sys.executable, "-m", "celery", "-A", "gpuqueue", "worker", *arguments]
    begun = time.monotonic()
    done = subprocess.run(command, env=clean | env, capture_output=True, text=True, timeout=30)
    assert time.monotonic() - begun < 15
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"GPUQUEUE_APP": ""}, "GPUQUEUE_APP is not set; set it to what follows `celery -A`"),
        (
            {"CELERY_BROKER_URL": ""},
            "CELERY_BROKER_URL is not set; set it to the applications' broker",
        ),
        (
            {"CELERY_BROKER_URL": "amqp://localhost"},
            "CELERY_BROKER_URL='amqp://localhost' is not Redis; use one of redis://",
        ),
        ({"CELERY_BROKER_URL": UNREACHABLE}, f"CELERY_BROKER_URL='{UNREACHABLE}' cannot be used: "),
        ({"T4_SHARED_SLOTS": "many"}, "T4_SHARED_SLOTS='many': input should be a valid integer"),
        (
            {"T4_SHARED_SLOTS": "-1"},
            "T4_SHARED_SLOTS='-1': input should be greater than or equal to 0",
        ),
        (
            {"T4_SHARED_SLOTS": "0", "T4_EXCLUSIVE_SLOTS": "0"},
            "T4_SHARED_SLOTS and T4_EXCLUSIVE_SLOTS are 0",
        ),
        (
            {"MIG_TOTAL_SLOTS": "7"},
            "GPU_RESOURCE_NAME is not set, and MIG_TOTAL_SLOTS is; set it to",
        ),
        (
            {"GPU_EXECUTION_MODE": "slurm"},
            "GPU_EXECUTION_MODE='slurm': input should be 'local' or 'k8s_job'",
        ),
        (
            {"GPUQUEUE_CLASSES_FILE": "no/such.toml"},
            "GPUQUEUE_CLASSES_FILE='no/such.toml' cannot be read: No such file",
        ),
        (
            {"GPUQUEUE_GRACE_SECONDS": "soon", "T4_SHARED_SLOTS": "x"},
            "GPUQUEUE_GRACE_SECONDS='soon'",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_a_wrong_setting_ends_the_dispatcher_with_what_to_do(url, env, words):
    status, said = start({"CELERY_BROKER_URL": url, "GPUQUEUE_APP": "shop"} | env)
    assert words in said
    assert status not in (0, None)
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        ("celery", "-Q: queue='celery' is not the name of a GPU queue"),
        ("gpu.t4.shared,orders", "-Q: queue='orders' is not the name of a GPU queue"),
        (
            "gpu.h100.shared",
            "-Q: queue='gpu.h100.shared' names the unknown class 'h100'; this dispatcher has: t4",
        ),
        ("gpu.t4.alone", "-Q: queue='gpu.t4.alone' has the unknown isolation 'alone'"),
    ],
)
def test_a_queue_that_is_not_ours_ends_the_dispatcher_with_what_to_do(url, queues, words):
    status, said = start({"CELERY_BROKER_URL": url, "GPUQUEUE_APP": "shop"}, "-Q", queues)
    assert words in said
    assert status not in (0, None)
    assert "Traceback" not in said
