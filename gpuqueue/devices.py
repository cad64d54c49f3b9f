"""The NVIDIA GPUs of this machine, by NVML. None is fine too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pynvml

from gpuqueue.classes import GpuClass
from gpuqueue.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or one MIG slice. ``memory`` in bytes."""

    index: str
    uuid: str
    name: str
    memory: int


def find() -> list[Device]:
    """Return the GPUs (MIG slices where MIG is on) that NVML shows; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found: list[Device] = []
        for number in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            slices = _slices(handle)
            found += (
                [_device(f"{number}:{order}", each) for order, each in enumerate(slices)]
                if slices
                else [_device(str(number), handle)]
            )
        return found
    finally:
        pynvml.nvmlShutdown()


def _slices(handle: object) -> list[object]:
    try:
        if pynvml.nvmlDeviceGetMigMode(handle)[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
            return []
    except pynvml.NVMLError:
        return []  # T4, L4 and others have no MIG
    found = []
    for order in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            found.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, order))
        except pynvml.NVMLError:
            break
    return found


def _device(index: str, handle: object) -> Device:
    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Device(index, _text(uuid), _text(name), int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def allowed(found: Sequence[Device], setting: str | None, visible: str | None = None) -> list[Device]:
    """Return the GPUs that jobs may use: those of GPUQUEUE_DEVICES, else of CUDA_VISIBLE_DEVICES, else all.

    Raises :class:`SettingsError` for a GPU that is not there.
    """
    name, text = ("GPUQUEUE_DEVICES", setting) if setting is not None else ("CUDA_VISIBLE_DEVICES", visible)
    if text is None:
        return list(found)
    wanted = [each.strip() for each in text.split(",") if each.strip()]
    if wanted in ([], ["none"], ["-1"]):
        return []
    chosen = []
    for each in wanted:
        match = [device for device in found if each == device.index or (len(each) > 4 and device.uuid.startswith(each))]
        if not match:
            there = ", ".join(f"{device.index} ({device.uuid})" for device in found) or "none"
            raise SettingsError(f"{name}={text!r} names {each!r}, which is not there; GPUs found: {there}")
        chosen.append(match[0])
    return chosen


def deal(classes: Iterable[GpuClass], found: Sequence[Device]) -> Mapping[str, list[str]]:
    """Return class → UUIDs of its GPUs. A class without ``devices`` gets all that no other class names.

    Raises :class:`SettingsError` when two classes would get the same GPU, or when exclusive jobs could not be alone.
    """
    classes = list(classes)
    if not found:
        return {}
    named = [index for each in classes for index in each.devices or ()]
    if len(named) != len(set(named)):
        raise SettingsError("devices of two classes overlap; name each GPU in one class only")
    for index in named:
        if index >= len(found):
            raise SettingsError(f"devices={index} is not there; this machine has {len(found)} GPUs, counted from 0")
    rest = [index for index in range(len(found)) if index not in named]
    open_classes = [each for each in classes if each.devices is None]
    if len(open_classes) > 1:
        names = ", ".join(each.name for each in open_classes)
        raise SettingsError(
            f"classes {names} would share this machine's GPUs; "
            "give each `devices` in GPUQUEUE_CLASSES_FILE, or set GPUQUEUE_DEVICES=none"
        )
    dealt = {each.name: [found[index].uuid for index in (rest if each.devices is None else each.devices)] for each in classes}
    for each in classes:
        if each.exclusive_slots > len(dealt[each.name]) > 0:
            raise SettingsError(
                f"class {each.name} has {each.exclusive_slots} exclusive slots and {len(dealt[each.name])} GPUs here; "
                f"an exclusive job is alone on its GPU: lower its exclusive slots"
            )
    return dealt


def visible_now() -> str | None:
    """Return the CUDA_VISIBLE_DEVICES that this process was given."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
