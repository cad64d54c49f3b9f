"""GPUs and MIG slices in NVML, read with the ``pynvml`` of the caller.

Never here: an import of ``pynvml``, which executors may lack.
"""

from __future__ import annotations

from typing import Any


def handles(nvml: Any) -> list[tuple[str, Any]]:
    """Return (index, handle) of every GPU or, if its MIG mode is on, of its slices.

    Raises ``nvml.NVMLError``.
    """
    found: list[tuple[str, Any]] = []
    for number in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        slices = _slices(nvml, handle)
        found += [(f"{number}:{order}", each) for order, each in enumerate(slices)] or [
            (str(number), handle)
        ]
    return found


def _slices(nvml: Any, handle: Any) -> list[Any]:
    try:
        if nvml.nvmlDeviceGetMigMode(handle)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return []
    except nvml.NVMLError:
        return []  # T4, L4 and others have no MIG
    found = []
    for order in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, order))
        except nvml.NVMLError:
            continue  # no slice, or one of another container
    return found


def uuid_of(nvml: Any, handle: Any) -> str:
    """Return the UUID of a GPU or slice."""
    return text(nvml.nvmlDeviceGetUUID(handle))


def text(value: str | bytes) -> str:
    """Return text that old versions of pynvml return as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def listed(visible: str) -> list[str]:
    """Split a list like CUDA_VISIBLE_DEVICES. ``none``, ``-1`` and "" name no GPU."""
    names = [each.strip() for each in visible.split(",") if each.strip()]
    return [] if names in (["none"], ["-1"]) else names


def is_named(name: str, index: str, uuid: str) -> bool:
    """Whether an entry of such a list means this GPU: by index, UUID, or start of the UUID."""
    return name == index or (len(name) > 4 and uuid.startswith(name))
