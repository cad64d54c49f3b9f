"""The doctor's checks of this machine: installed versions and GPUs."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.cli.checks.check import Check, Level
from gpuqueue.errors import SettingsError
from gpuqueue.nvidia import devices
from gpuqueue.settings.dispatcher import Settings

#: Versions of Celery that the tests cover.
CELERY = ((5, 6), (6, 0))
_PACKAGES = ("celery", "kombu", "redis", "flower")


def versions() -> Iterator[Check]:
    """Check the versions of Python and the packages."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    celery = numbers(found["celery"])
    fits = CELERY[0] <= celery < CELERY[1]
    saw = ", ".join(
        [
            f"python {platform.python_version()}",
            *(f"{name} {version}" for name, version in found.items()),
        ]
    )
    yield Check(
        "versions", Level.OK if fits else Level.FAIL, saw, "" if fits else "install celery>=5.6,<6"
    )


def gpus(settings: Settings, classes: dict[str, GpuClass]) -> Iterator[Check]:
    """Check the GPUs of this machine for local jobs, and that they fit the slots."""
    if settings.execution_mode != "local":
        return
    try:
        found = devices.allowed(devices.find(), settings.devices, devices.visible_now())
        dealt = devices.deal(classes.values(), found)
    except SettingsError as exc:
        problem, _, fix = str(exc).partition("; ")
        yield Check("gpus", Level.FAIL, problem, fix)
        return
    if not found:
        yield Check(
            "gpus",
            Level.WARN,
            "none; local jobs run on the CPU",
            "install the NVIDIA driver on machines with local dispatchers",
        )
    else:
        saw = ", ".join(f"{each.index} {each.name} {each.memory / 2**30:.0f}GiB" for each in found)
        yield Check(
            "gpus",
            Level.OK,
            f"{saw}; " + ", ".join(f"{name} has {len(gpus)}" for name, gpus in dealt.items()),
        )


def numbers(version: str) -> tuple[int, ...]:
    """Return the first two parts of a version."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
