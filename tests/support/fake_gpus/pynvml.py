"""NVML on a machine of two T4s, or of FAKE_GPUS, for dispatchers of the tests: found before the
real one, by PYTHONPATH.
"""

import os
from types import SimpleNamespace
from typing import NoReturn

NVML_DEVICE_MIG_ENABLE = 1
_UUIDS = [
    "GPU-0000aaaa-0000",
    "GPU-1111bbbb-1111",
    "GPU-2222cccc-2222",
    "GPU-3333dddd-3333",
][: int(os.environ.get("FAKE_GPUS", "2"))]


class NVMLError(Exception):
    """As pynvml's."""


def nvmlInit() -> None:
    pass


def nvmlShutdown() -> None:
    pass


def nvmlDeviceGetCount() -> int:
    return len(_UUIDS)


def nvmlDeviceGetHandleByIndex(index: int) -> int:
    return index


def nvmlDeviceGetMigMode(handle: int) -> NoReturn:
    raise NVMLError("not supported")


def nvmlDeviceGetUUID(handle: int) -> str:
    return _UUIDS[handle]


def nvmlDeviceGetName(handle: int) -> str:
    return "Tesla T4"


def nvmlDeviceGetMemoryInfo(handle: int) -> SimpleNamespace:
    return SimpleNamespace(total=15_360 * 1024**2, used=3 * 1024**3)
