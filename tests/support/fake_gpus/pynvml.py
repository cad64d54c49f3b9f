"""NVML on a machine of two T4s, for dispatchers of the tests: found before the real one, by
PYTHONPATH.
"""

from types import SimpleNamespace

NVML_DEVICE_MIG_ENABLE = 1
_UUIDS = ["GPU-0000aaaa-0000", "GPU-1111bbbb-1111"]


class NVMLError(Exception):
    """As pynvml's."""


def nvmlInit():
    pass


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return len(_UUIDS)


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetMigMode(handle):
    raise NVMLError("not supported")


def nvmlDeviceGetUUID(handle):
    return _UUIDS[handle]


def nvmlDeviceGetName(handle):
    return "Tesla T4"


def nvmlDeviceGetMemoryInfo(handle):
    return SimpleNamespace(total=15_360 * 1024**2, used=3 * 1024**3)
