"""A dispatcher with wrong settings prints an error and exits at once with a nonzero status."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from tests.support.command_line import run_command

pytestmark = pytest.mark.integration
UNREACHABLE = "redis://127.0.0.1:1/0"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


def start(env: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Run a dispatcher that should exit at once; returns its exit status and its output."""
    ours = ("GPU", "T4_", "MIG_", "CELERY")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    words = ["-A", "gpuqueue", "worker", *arguments]
    # One that does not exit would try again for ever.
    done = run_command(words, env={**clean, **env}, module="celery")
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"GPUQUEUE_APP": ""}, "GPUQUEUE_APP is not set; set it to the argument of `celery -A`"),
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
            "GPU_RESOURCE_NAME is not set, but MIG_TOTAL_SLOTS requires it; set it to",
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
            {"GPUQUEUE_TENANTS_FILE": "no/such.toml"},
            "GPUQUEUE_TENANTS_FILE='no/such.toml' cannot be read: No such file",
        ),
        (
            {"GPUQUEUE_GRACE_SECONDS": "soon", "T4_SHARED_SLOTS": "x"},
            "GPUQUEUE_GRACE_SECONDS='soon'",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_wrong_setting_ends_the_dispatcher_with_the_fix(
    url: str, env: dict[str, str], words: str
) -> None:
    status, output = start({"CELERY_BROKER_URL": url, "GPUQUEUE_APP": "shop"} | env)
    assert words in output
    assert status not in (0, None)
    assert "Traceback" not in output


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
def test_unknown_queue_ends_the_dispatcher_with_the_fix(url: str, queues: str, words: str) -> None:
    status, output = start({"CELERY_BROKER_URL": url, "GPUQUEUE_APP": "shop"}, "-Q", queues)
    assert words in output
    assert status not in (0, None)
    assert "Traceback" not in output
