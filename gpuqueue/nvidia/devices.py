"""The GPUs of this machine, and which class uses which."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pynvml

from gpuqueue.classes.gpu_class import DEVICE, GpuClass
from gpuqueue.errors import SettingsError
from gpuqueue.nvidia import nvml


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU or MIG slice. ``memory`` is in bytes."""

    index: str
    uuid: str
    name: str
    memory: int


def find() -> list[Device]:
    """Return the GPUs, or their MIG slices, that NVML lists. Without a driver, there are none."""
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
    """Return the GPUs that jobs may use: GPUQUEUE_DEVICES, else CUDA_VISIBLE_DEVICES, else all.

    Raises :class:`SettingsError` for a GPU that does not exist.
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
            known = ", ".join(f"{device.index} ({device.uuid})" for device in found) or "none"
            raise SettingsError(
                f"{name}={text!r} names the unknown GPU {each!r}; this machine has: {known}"
            )
        chosen.append(match[0])
    return chosen


def deal(classes: Iterable[GpuClass], found: Sequence[Device]) -> Mapping[str, list[str]]:
    """Return class → UUIDs of its GPUs. A class without ``devices`` gets all unassigned GPUs.

    Raises :class:`SettingsError` if two classes would get the same GPU, or a class gets none, or
    has more exclusive slots than GPUs.
    """
    classes = list(classes)
    if not found:
        return {}
    named: dict[int, str] = {}
    for each in classes:
        for index in each.devices or ():
            if index in named:
                raise SettingsError(
                    f"devices={index} of class {each.name!r} is a GPU of class {named[index]!r},"
                    " too: list each GPU in one class only"
                )
            named[index] = each.name
    for index in named:
        if index >= len(found):
            raise SettingsError(
                f"devices={index} is an unknown GPU; this machine has {len(found)}, counted from 0"
            )
    rest = [index for index in range(len(found)) if index not in named]
    open_classes = [each for each in classes if each.devices is None]
    if len(open_classes) > 1:
        names = ", ".join(each.name for each in open_classes)
        raise SettingsError(
            f"classes {names} would use the same GPUs; "
            "set `devices` of each in GPUQUEUE_CLASSES_FILE, or set GPUQUEUE_DEVICES=none"
        )
    dealt = {
        each.name: [found[index].uuid for index in (rest if each.devices is None else each.devices)]
        for each in classes
    }
    for each in classes:
        if each.devices is not None and not each.devices:
            raise SettingsError(
                f"class {each.name}: devices=[] lists no GPU; list the indexes of its GPUs, or"
                " leave it out"
            )
        if not dealt[each.name]:
            others = ", ".join(dict.fromkeys(named.values()))
            raise SettingsError(
                f"class {each.name} has no GPU: classes {others} have all {len(found)} of this"
                " machine; give it one in its `devices`, or remove the class (t4 of the"
                " environment: T4_SHARED_SLOTS=0 and T4_EXCLUSIVE_SLOTS=0)"
            )
        if each.domain == DEVICE and each.exclusive_slots > 1:
            raise SettingsError(
                f"class {each.name}: with domain=device, exclusive_slots={each.exclusive_slots} are"
                " those of one GPU, and an exclusive job needs a GPU for itself: use 1"
            )
        if each.exclusive_slots > len(dealt[each.name]) > 0:
            raise SettingsError(
                f"class {each.name} has {each.exclusive_slots} exclusive slots and"
                f" {len(dealt[each.name])} GPUs; an exclusive job needs a GPU for itself: lower"
                " its exclusive slots"
            )
    return dealt


def visible_now() -> str | None:
    """Return CUDA_VISIBLE_DEVICES of this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
