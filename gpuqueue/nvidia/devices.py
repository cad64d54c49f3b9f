"""The NVIDIA GPUs of this machine, by NVML. None is fine too."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pynvml

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import SettingsError
from gpuqueue.nvidia import nvml


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
        return [_device(index, handle) for index, handle in nvml.handles(pynvml)]
    finally:
        pynvml.nvmlShutdown()


def _device(index: str, handle: object) -> Device:
    name, memory = (
        nvml.text(pynvml.nvmlDeviceGetName(handle)),
        int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
    )
    return Device(index, nvml.uuid_of(pynvml, handle), name, memory)


def allowed(
    found: Sequence[Device], setting: str | None, visible: str | None = None
) -> list[Device]:
    """Return the GPUs that jobs may use: those of GPUQUEUE_DEVICES, else of CUDA_VISIBLE_DEVICES,
    else all.

    Raises :class:`SettingsError` for a GPU that is not there.
    """
    name, text = (
        ("GPUQUEUE_DEVICES", setting) if setting is not None else ("CUDA_VISIBLE_DEVICES", visible)
    )
    if text is None:
        return list(found)
    chosen = []
    for each in nvml.listed(text):
        match = [device for device in found if nvml.is_named(each, device.index, device.uuid)]
        if not match:
            there = ", ".join(f"{device.index} ({device.uuid})" for device in found) or "none"
            raise SettingsError(
                f"{name}={text!r} names {each!r}, which is not there; GPUs found: {there}"
            )
        chosen.append(match[0])
    return chosen


def deal(classes: Iterable[GpuClass], found: Sequence[Device]) -> Mapping[str, list[str]]:
    """Return class → UUIDs of its GPUs. A class without ``devices`` gets all that no other class
    names.

    Raises :class:`SettingsError` when two classes would get the same GPU, or when exclusive jobs
    could not be alone.
    """
    classes = list(classes)
    if not found:
        return {}
    named = [index for each in classes for index in each.devices or ()]
    if len(named) != len(set(named)):
        raise SettingsError("devices of two classes overlap; name each GPU in one class only")
    for index in named:
        if index >= len(found):
            raise SettingsError(
                f"devices={index} is not there; this machine has {len(found)} GPUs, counted from 0"
            )
    rest = [index for index in range(len(found)) if index not in named]
    open_classes = [each for each in classes if each.devices is None]
    if len(open_classes) > 1:
        names = ", ".join(each.name for each in open_classes)
        raise SettingsError(
            f"classes {names} would share this machine's GPUs; "
            "give each `devices` in GPUQUEUE_CLASSES_FILE, or set GPUQUEUE_DEVICES=none"
        )
    dealt = {
        each.name: [found[index].uuid for index in (rest if each.devices is None else each.devices)]
        for each in classes
    }
    for each in classes:
        if each.exclusive_slots > len(dealt[each.name]) > 0:
            raise SettingsError(
                f"class {each.name} has {each.exclusive_slots} exclusive slots and"
                f" {len(dealt[each.name])} GPUs here; an exclusive job is alone on its GPU: lower"
                " its exclusive slots"
            )
    return dealt


def visible_now() -> str | None:
    """Return the CUDA_VISIBLE_DEVICES that this process was given."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
