"""How ``doctor`` finds settings whose names are misspelt."""

from __future__ import annotations

import pytest

from gpuqueue.cli.checks.check import Level
from gpuqueue.cli.checks.setting_names import misspelt
from gpuqueue.model.executor_env import OF_ATTEMPT
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings
from gpuqueue.settings.redis import names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GPUQUEUE_LEASE_SECOND", "GPUQUEUE_LEASE_SECONDS"),
        ("GPUQUEUE_STATE", "GPUQUEUE_STATES"),
        ("T4_SHARED_SLOT", "T4_SHARED_SLOTS"),
        ("GPU_HELD_TIMEOUTS", "GPU_HELD_TIMEOUT"),
        ("CELERY_RESULTS_BACKEND", "CELERY_RESULT_BACKEND"),
    ],
)
def test_a_misspelt_setting_is_named_with_the_one_that_was_meant(name: str, meant: str) -> None:
    [found] = misspelt({name: "1", "PATH": "/bin"})
    assert (found.level, found.saw.split()[0]) == (Level.WARN, name)
    assert found.fix == f"rename it to {meant}, or unset it"


def test_settings_and_variables_of_others_are_not_taken_for_misspelt() -> None:
    known = names(Settings) | names(ClusterSettings) | OF_ATTEMPT
    others = ["GPUQUEUE_PORT", "GPUQUEUE_SERVICE_HOST", "GPU_NAME", "CELERY_LOG_LEVEL", "T4", ""]
    assert list(misspelt(dict.fromkeys([*known, *others], "1"))) == []
