"""Samples of the GPU of a running job, with a fake NVML, a fake torch and the real thread."""

from __future__ import annotations

import _thread
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gpuqueue.nvidia import sampler as gpu_sampler
from gpuqueue.nvidia.sampler import GROWN, QUIET, Sample, Sampler, has_gpu, is_news, own_memory
from tests.support.waiting import PATIENCE, until

GIB = 2**30
QUICK = (0.0, 0.001, 0.001)


class NVMLError(Exception):
    """Like the one of pynvml."""


class Nvml(ModuleType):
    """A fake pynvml: UUID → bytes in use, or a list of slices for a GPU in MIG mode."""

    NVMLError = NVMLError
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, *cards: dict[str, int] | list[dict[str, int]], lost: bool = False) -> None:
        super().__init__("pynvml")
        self.cards, self.lost, self.looks = cards, lost, 0

    def nvmlInit(self) -> None:
        if not self.cards:
            raise NVMLError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self.cards[index]

    def nvmlDeviceGetMigMode(self, card: Any) -> tuple[int, int]:
        return (1, 1) if isinstance(card, list) else (0, 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Any) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Any, index: int) -> Any:
        if index % 2 or index // 2 >= len(card):
            raise NVMLError("not found")  # instances have gaps between them
        return card[index // 2]

    def nvmlDeviceGetUUID(self, card: dict[str, int]) -> bytes:
        return next(iter(card)).encode()

    def nvmlDeviceGetMemoryInfo(self, card: Any) -> SimpleNamespace:
        self.looks += 1
        if self.lost:
            raise NVMLError("GPU is lost")
        assert not isinstance(card, list), "a GPU in MIG mode reports its slices together"
        return SimpleNamespace(used=next(iter(card.values())))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Nvml]]:
    """Replace pynvml by a fake machine; no sampler outlives the test."""

    def make(*cards: Any, **how: Any) -> Nvml:
        nvml = Nvml(*cards, **how)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    before = _thread._count()
    yield make
    until(lambda: _thread._count() <= before, PATIENCE, "its thread has ended")


def first_told(visible: str | None) -> Sample:
    """Return the first sample that is reported."""
    reported: queue.Queue[Sample] = queue.Queue()
    with Sampler(reported.put, visible, QUICK):
        return reported.get(timeout=PATIENCE)


def sampled_in_vain(visible: str | None = None) -> list[Sample]:
    """Return the reports of a sampler whose thread ends by itself or never starts."""
    reported: list[Sample] = []
    before = _thread._count()
    with Sampler(reported.append, visible, QUICK) as sampler:
        until(lambda: _thread._count() <= before, PATIENCE, "its thread has ended")
        assert sampler.latest() == {}
    return reported


def torch_with(monkeypatch: pytest.MonkeyPatch, *most: int, begun: bool = True) -> None:
    cuda = SimpleNamespace(
        is_initialized=lambda: begun,
        device_count=lambda: len(most),
        max_memory_allocated=lambda index: most[index],
    )
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)


# -- which GPU -------------------------------------------------------------------------------------

CARDS = (
    {"GPU-aaaa-1": 3 * GIB},
    {"GPU-bbbb-2": 5 * GIB},
    [{"MIG-cccc-3": GIB}, {"MIG-dddd-4": 2 * GIB}],
)
SEEN: dict[str, tuple[str | None, str, int]] = {
    "all GPUs of a container with one": (
        None,
        "GPU-aaaa-1,GPU-bbbb-2,MIG-cccc-3,MIG-dddd-4",
        11 * GIB,
    ),
    "the GPU from the dispatcher": ("GPU-bbbb-2", "GPU-bbbb-2", 5 * GIB),
    "a GPU by its index": ("0", "GPU-aaaa-1", 3 * GIB),
    "a GPU by the start of its UUID": ("GPU-b", "GPU-bbbb-2", 5 * GIB),
    "a MIG slice, with its own memory": ("MIG-dddd-4", "MIG-dddd-4", 2 * GIB),
    "two": ("1,0", "GPU-bbbb-2,GPU-aaaa-1", 8 * GIB),
}


@pytest.mark.parametrize(("visible", "gpu", "peak"), SEEN.values(), ids=SEEN)
def test_sample_of_visible_gpus(
    machine: Callable[..., Nvml], visible: str | None, gpu: str, peak: int
) -> None:
    machine(*CARDS)
    assert first_told(visible) == {"gpu": gpu, "gpu_memory_peak": peak}


@pytest.mark.parametrize("visible", ["", "-1", "none", "GPU-of-another-process"])
def test_process_without_a_gpu_has_no_sample(machine: Callable[..., Nvml], visible: str) -> None:
    nvml = machine(*CARDS)
    assert sampled_in_vain(visible) == []
    assert nvml.looks == 0


@pytest.mark.parametrize(
    ("visible", "pod", "given"), [("GPU-1", {}, True), ("", {"GPUQUEUE_POD_UID": "u"}, False)]
)
def test_visible_devices_decide_whether_a_process_has_a_gpu(
    visible: str, pod: dict[str, str], given: bool
) -> None:
    assert has_gpu({"CUDA_VISIBLE_DEVICES": visible, **pod}) is given


def test_unrestricted_process_has_a_gpu_only_in_a_pod() -> None:
    assert (has_gpu({}), has_gpu({"GPUQUEUE_POD_UID": "u"})) == (False, True)


# -- nothing to sample -----------------------------------------------------------------------------


def test_no_sample_and_no_message_without_pynvml(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if not installed
    assert sampled_in_vain() == []
    assert capfd.readouterr() == ("", "")


def test_no_sample_and_no_message_without_a_driver(
    machine: Callable[..., Nvml], capfd: pytest.CaptureFixture[str]
) -> None:
    machine()
    assert sampled_in_vain() == []
    assert capfd.readouterr() == ("", "")


def test_lost_gpu_ends_only_the_sampling(
    machine: Callable[..., Nvml], capfd: pytest.CaptureFixture[str]
) -> None:
    machine({"GPU-1": 1}, lost=True)
    assert sampled_in_vain() == []
    assert capfd.readouterr() == ("", "")


def test_short_job_is_not_sampled(machine: Callable[..., Nvml]) -> None:
    nvml, before = machine({"GPU-1": 1}), _thread._count()
    with Sampler(lambda sample: None, None, (PATIENCE, 0, 0)):
        pass
    until(lambda: _thread._count() <= before, PATIENCE, "its thread has ended")
    assert nvml.looks == 0


def test_job_does_not_wait_for_a_sample(
    machine: Callable[..., Nvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml, looked, answer = machine({"GPU-1": 7}), threading.Event(), threading.Event()
    before = _thread._count()

    def hangs(card: Any) -> SimpleNamespace:
        looked.set()
        answer.wait(PATIENCE)
        return SimpleNamespace(used=1)

    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", hangs)
    with Sampler(lambda sample: None, None, QUICK) as sampler:
        assert looked.wait(PATIENCE)
        assert sampler.latest() == {}
    assert _thread._count() > before  # and the job has ended
    answer.set()


def test_job_goes_on_without_a_thread_for_samples(
    machine: Callable[..., Nvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    machine({"GPU-1": 1})
    monkeypatch.setattr(_thread, "start_new_thread", start)
    with Sampler(lambda sample: None, None, QUICK) as sampler:
        assert sampler.latest() == {}


# -- samples ---------------------------------------------------------------------------------------


def test_peak_is_the_maximum_of_all_samples(machine: Callable[..., Nvml]) -> None:
    card = {"GPU-1": 4 * GIB}
    nvml = machine(card)
    with Sampler(lambda sample: None, None, QUICK) as sampler:

        def looked_again() -> None:
            before = nvml.looks
            until(lambda: nvml.looks >= before + 2)

        looked_again()
        card["GPU-1"] = 6 * GIB
        looked_again()
        card["GPU-1"] = GIB
        looked_again()
        assert sampler.latest() == {"gpu": "GPU-1", "gpu_memory_peak": 6 * GIB}


def test_torch_figure_is_read_at_the_end_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with Sampler(lambda sample: None, None, QUICK) as sampler:
        torch_with(monkeypatch, 2 * GIB, GIB)
        assert sampler.latest() == {"gpu_memory_own": 3 * GIB}


def test_torch_is_not_called_before_it_uses_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_with(monkeypatch, GIB, begun=False)
    assert own_memory() == {}
    monkeypatch.setitem(sys.modules, "torch.cuda", ModuleType("torch.cuda"))  # half imported
    assert own_memory() == {}
    monkeypatch.delitem(sys.modules, "torch.cuda")
    assert own_memory() == {}
    assert "torch" not in sys.modules


def test_failed_report_is_repeated(machine: Callable[..., Nvml]) -> None:
    machine({"GPU-1": 1})
    reported: queue.Queue[Sample] = queue.Queue()

    def report(sample: Sample) -> None:
        reported.put(sample)
        if reported.qsize() == 1:
            raise ConnectionError("Redis is away")

    with Sampler(report, None, QUICK):
        until(lambda: reported.qsize() >= 2)
    assert [reported.get(), reported.get()] == [{"gpu": "GPU-1", "gpu_memory_peak": 1}] * 2


NEWS: dict[str, tuple[Sample, Sample, float, bool]] = {
    "the first sample is news": ({}, {"gpu": "GPU-1", "gpu_memory_peak": 0}, 0, True),
    "an empty sample is not": ({}, {}, QUIET, False),
    "an equal sample is not": (
        {"gpu": "GPU-1", "gpu_memory_peak": 100},
        {"gpu": "GPU-1", "gpu_memory_peak": 100},
        QUIET,
        False,
    ),
    "a little more is not": (
        {"gpu_memory_peak": 1000},
        {"gpu_memory_peak": int(1000 * GROWN)},
        QUIET,
        False,
    ),
    "much more is news": (
        {"gpu_memory_peak": 1000},
        {"gpu_memory_peak": int(1000 * GROWN) + 1},
        QUIET,
        True,
    ),
    "much more is not news so soon": (
        {"gpu_memory_peak": 1000},
        {"gpu_memory_peak": 5000},
        QUIET - 0.1,
        False,
    ),
    "the first figure of torch is news": (
        {"gpu_memory_peak": 9},
        {"gpu_memory_peak": 9, "gpu_memory_own": 1},
        QUIET,
        True,
    ),
    "a grown figure of torch is news": (
        {"gpu_memory_own": 10},
        {"gpu_memory_own": 20},
        QUIET,
        True,
    ),
}


@pytest.mark.parametrize(("reported", "sample", "seconds", "news"), NEWS.values(), ids=NEWS)
def test_whether_a_sample_is_news(
    reported: Sample, sample: Sample, seconds: float, news: bool
) -> None:
    assert is_news(reported, sample, seconds) is news


def test_long_job_is_sampled_seldom(
    machine: Callable[..., Nvml], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: queue.Queue[float] = queue.Queue()
    now = iter([0.0, 0.0, 1.0, 0.0, gpu_sampler.EARLY])
    monkeypatch.setattr(gpu_sampler, "time", SimpleNamespace(monotonic=lambda: next(now)))
    machine({"GPU-1": 1})
    sampler = Sampler(lambda sample: None, None, (0.0, 1.0, 5.0))
    monkeypatch.setattr(
        sampler,
        "_over",
        SimpleNamespace(is_set=lambda: waits.qsize() == 3, wait=waits.put, set=lambda: None),
    )
    with sampler:
        until(lambda: waits.qsize() == 3, PATIENCE, "it has slept three times")
    assert [waits.get_nowait() for _ in range(3)] == [0.0, 1.0, 5.0]
