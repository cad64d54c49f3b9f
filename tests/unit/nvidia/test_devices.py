"""The GPUs of a machine with a fake NVML, and their assignment to classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import SettingsError
from gpuqueue.nvidia import devices
from gpuqueue.nvidia.devices import Device, allowed, deal, find

FOUND = [Device(str(index), f"GPU-{index}aaaa", "Tesla T4", 16) for index in range(3)]


class NVMLError(Exception):
    """Like the one of pynvml."""


@dataclass
class Card:
    uuid: str
    mig: bool | None = None
    """None: a card without MIG."""
    slices: list[Card] = field(default_factory=list)
    gaps: int = 0


class FakeNvml:
    """The calls of pynvml in ``find``, on given cards. Returns bytes, as old versions do."""

    NVMLError = NVMLError
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, cards: Sequence[Card] | None) -> None:
        self.cards, self.shut_down = cards, 0

    def nvmlInit(self) -> None:
        if self.cards is None:
            raise NVMLError("driver not loaded")

    def nvmlShutdown(self) -> None:
        self.shut_down += 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards or ())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        assert self.cards
        return self.cards[index]

    def nvmlDeviceGetMigMode(self, card: Card) -> tuple[int, int]:
        if card.mig is None:
            raise NVMLError("not supported")
        return int(card.mig), int(card.mig)

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Card:
        if index >= len(card.slices):
            raise NVMLError("not found")
        return card.slices[index]

    def nvmlDeviceGetUUID(self, card: Card) -> bytes:
        return card.uuid.encode()

    def nvmlDeviceGetName(self, card: Card) -> str:
        return "NVIDIA"

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> SimpleNamespace:
        return SimpleNamespace(total=5)


def see(
    monkeypatch: pytest.MonkeyPatch, cards: Sequence[Card] | None
) -> tuple[list[Device], FakeNvml]:
    nvml = FakeNvml(cards)
    monkeypatch.setattr(devices, "pynvml", nvml)
    return find(), nvml


def test_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert see(monkeypatch, None)[0] == []


def test_gpus_without_mig_are_whole_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    found, nvml = see(monkeypatch, [Card("GPU-a"), Card("GPU-b", mig=False)])
    assert found == [Device("0", "GPU-a", "NVIDIA", 5), Device("1", "GPU-b", "NVIDIA", 5)]
    assert nvml.shut_down == 1


def test_gpu_with_mig_enabled_is_listed_as_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Card("GPU-a"), Card("GPU-b", mig=True, slices=[Card("MIG-1"), Card("MIG-2")])]
    assert [(each.index, each.uuid) for each in see(monkeypatch, cards)[0]] == [
        ("0", "GPU-a"),
        ("1:0", "MIG-1"),
        ("1:1", "MIG-2"),
    ]


ALLOWED: dict[str, tuple[str | None, str | None, list[str]]] = {
    "all without a setting": (None, None, ["0", "1", "2"]),
    "the GPUs of the setting": ("2,0", None, ["2", "0"]),
    "the GPUs of CUDA_VISIBLE_DEVICES": (None, "1", ["1"]),
    "the setting wins over CUDA_VISIBLE_DEVICES": ("0", "1", ["0"]),
    "a GPU by its UUID": ("GPU-1aaaa", None, ["1"]),
    "a GPU by the start of its UUID": ("GPU-2", None, ["2"]),
    "none": ("none", None, []),
    "none in the syntax of CUDA": (None, "-1", []),
    "none with an empty variable": (None, "", []),
}


@pytest.mark.parametrize(("setting", "visible", "indexes"), ALLOWED.values(), ids=ALLOWED)
def test_allowed_gpus(setting: str | None, visible: str | None, indexes: list[str]) -> None:
    assert [each.index for each in allowed(FOUND, setting, visible)] == indexes


@pytest.mark.parametrize(
    ("name", "arguments"), [("GPUQUEUE_DEVICES", ("7",)), ("CUDA_VISIBLE_DEVICES", (None, "7"))]
)
def test_error_names_an_unknown_gpu_and_the_known_ones(
    name: str, arguments: tuple[str | None, ...]
) -> None:
    with pytest.raises(
        SettingsError,
        match=rf"^{name}='7' names the unknown GPU '7'; this machine has: 0 \(GPU-0aaaa\), 1",
    ):
        allowed(FOUND, *arguments)


def test_a_class_that_no_gpu_is_left_for_is_refused() -> None:
    """Its jobs would see all GPUs of the machine, those of exclusive jobs included."""
    others = [
        GpuClass("a", exclusive_slots=1, devices=(0, 2)),
        GpuClass("b", exclusive_slots=1, devices=(1,)),
    ]
    with pytest.raises(SettingsError) as caught:
        deal([*others, GpuClass("t4", shared_slots=8)], FOUND)
    assert str(caught.value) == (
        "class t4 has no GPU: classes a, b have all 3 of this machine; give it one in its"
        " `devices`, or remove the class (t4 of the environment: T4_SHARED_SLOTS=0 and"
        " T4_EXCLUSIVE_SLOTS=0)"
    )
    with pytest.raises(SettingsError, match=r"^class t4: devices=\[\] lists no GPU; list the ind"):
        deal([GpuClass("t4", shared_slots=8, devices=())], FOUND)
    assert deal([GpuClass("t4", shared_slots=8, devices=())], []) == {}, "without any GPU"


def test_class_without_devices_gets_the_unassigned_gpus() -> None:
    dealt = deal(
        [GpuClass("a", shared_slots=1), GpuClass("b", exclusive_slots=1, devices=(1,))], FOUND
    )
    assert dealt == {"a": ["GPU-0aaaa", "GPU-2aaaa"], "b": ["GPU-1aaaa"]}


def test_no_gpus_are_assigned_on_a_machine_without_gpus() -> None:
    assert (
        deal([GpuClass("a", shared_slots=1), GpuClass("b", exclusive_slots=9, devices=(1,))], [])
        == {}
    )


MISDEALT: dict[str, tuple[list[GpuClass], str]] = {
    "two classes list one GPU": (
        [
            GpuClass("a", shared_slots=1, devices=(0,)),
            GpuClass("b", shared_slots=1, devices=(0, 1)),
        ],
        "devices=0 of class 'b' is a GPU of class 'a', too: list each GPU in one class only",
    ),
    "a class lists an unknown GPU": (
        [GpuClass("a", shared_slots=1, devices=(3,))],
        "devices=3 is an unknown GPU; this machine has 3, counted from 0",
    ),
    "two classes list none": (
        [GpuClass("a", shared_slots=1), GpuClass("b", shared_slots=1)],
        "classes a, b would use the same GPUs",
    ),
    "exclusive jobs would share a GPU": (
        [GpuClass("a", exclusive_slots=2, devices=(0,))],
        "class a has 2 exclusive slots and 1 GPUs; an exclusive job needs a GPU for itself",
    ),
}


@pytest.mark.parametrize(("classes", "text"), MISDEALT.values(), ids=MISDEALT)
def test_invalid_assignment_is_refused(classes: list[GpuClass], text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        deal(classes, FOUND)
    assert text in str(caught.value)
