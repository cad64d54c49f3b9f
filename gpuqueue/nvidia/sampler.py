"""Watches the job's GPU while it runs, from a thread of the executor: which one it is, and how much
of its memory was taken.

All of it is optional: without pynvml, without a driver and without a GPU there are no figures, and
nobody hears of it. The job waits neither for the first figure nor for the last one.

NVML's memory is the device's: on a time-sliced GPU the neighbours' too, while a MIG slice has its
own. What this process itself took is known only where torch did the taking.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from gpuqueue.nvidia import nvml

#: Seconds before the first look: no job comes to its GPU sooner, and one that ends sooner pays for
#: none of this.
FIRST = 0.2
#: Seconds between looks for the first ``EARLY`` seconds, while a model is loaded and a batch size
#: shows, and afterwards.
OFTEN, SELDOM = 1.0, 5.0
EARLY = 30.0
#: Figures are told again when one has grown by this factor, and no sooner than ``QUIET`` seconds
#: after the last time.
GROWN = 1.05
QUIET = 10.0


class Sample(TypedDict, total=False):
    """What was seen of the GPU; absent: not known. Memory is in bytes, the most at any look."""

    gpu: str
    """UUID of the GPU or MIG slice; several with commas."""
    gpu_memory_peak: int
    """Of the whole device (or slice), whoever took it, the driver's own reserve included."""
    gpu_memory_own: int
    """Of this process, as torch's allocator counts it."""
    gpu_error: str
    """How the GPU failed under the attempt."""


class Sampler:
    """A context in which the GPU is watched.

    Args:
        tell: is given the figures, from the thread, when they are first known and when they have
            grown; what it raises is dropped, and the figures are told again.
        visible: CUDA_VISIBLE_DEVICES of this process; None: every GPU that NVML shows is the job's.
        pauses: seconds until the first look, and between looks early and later.
    """

    def __init__(
        self,
        tell: Callable[[Sample], object],
        visible: str | None,
        pauses: tuple[float, float, float] = (FIRST, OFTEN, SELDOM),
    ) -> None:
        self._tell = tell
        self._visible = visible
        self._pauses = pauses
        self._seen, self._told = Sample(), Sample()
        self._told_at = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuqueue-gpu", daemon=True)

    def __enter__(self) -> Sampler:
        if self._visible is None or nvml.listed(self._visible):
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()  # nobody waits for the thread: NVML may hang with its GPU

    def seen(self) -> Sample:
        """Return what is known by now. torch is asked once more; NVML is not."""
        return _most(self._seen, own_memory())

    def _run(self) -> None:
        signal.pthread_sigmask(
            signal.SIG_BLOCK, signal.valid_signals()
        )  # those are for the job's own thread
        first, often, seldom = self._pauses
        if self._over.wait(first):
            return
        with contextlib.suppress(
            Exception
        ):  # no pynvml, no driver, a GPU that is lost: no (more) figures
            pynvml = importlib.import_module(
                "pynvml"
            )  # not an import statement: an executor does without
            pynvml.nvmlInit()
            started, cards = time.monotonic(), _cards(pynvml, self._visible)
            while cards and not self._over.is_set():
                self._look(pynvml, cards)
                self._over.wait(often if time.monotonic() - started < EARLY else seldom)

    def _look(self, pynvml: Any, cards: Mapping[str, Any]) -> None:
        used = sum(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in cards.values())
        seen = self._seen = _most(
            self._seen, Sample(gpu=",".join(cards), gpu_memory_peak=used), own_memory()
        )
        now = time.monotonic()
        if is_news(self._told, seen, now - self._told_at):
            with contextlib.suppress(Exception):
                self._tell(seen)
                self._told, self._told_at = seen, now


def has_gpu(environ: Mapping[str, str]) -> bool:
    """Whether a process with this environment was given a GPU: dealt by a dispatcher, or requested
    by its pod.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    return "GPUQUEUE_POD_UID" in environ if visible is None else bool(nvml.listed(visible))


def is_news(told: Sample, seen: Sample, seconds: float) -> bool:
    """Whether figures are worth telling ``seconds`` after others were told (of nothing told yet, at
    once).
    """
    if not told:
        return bool(seen)
    if seconds < QUIET:
        return False
    peak = seen.get("gpu_memory_peak", 0) > told.get("gpu_memory_peak", 0) * GROWN
    return peak or seen.get("gpu_memory_own", 0) > told.get("gpu_memory_own", 0) * GROWN


def own_memory() -> Sample:
    """Return the most that this process's tensors took, if it has begun to use a GPU by torch.
    torch is not imported.
    """
    cuda = sys.modules.get("torch.cuda")
    try:
        if cuda is None or not cuda.is_initialized():
            return Sample()
        return Sample(
            gpu_memory_own=sum(
                int(cuda.max_memory_allocated(index)) for index in range(cuda.device_count())
            )
        )
    except Exception:  # half imported, or another module of that name
        return Sample()


def _most(*samples: Sample) -> Sample:
    most: Any = {}
    for sample in samples:
        for name, value in sample.items():
            most[name] = max(most.get(name, 0), value) if isinstance(value, int) else value
    merged: Sample = most
    return merged


def _cards(pynvml: Any, visible: str | None) -> dict[str, Any]:
    """Return UUID → handle of the GPUs that this process sees."""
    found = [
        (index, nvml.uuid_of(pynvml, handle), handle) for index, handle in nvml.handles(pynvml)
    ]
    if visible is None:
        return {uuid: handle for _, uuid, handle in found}
    return {
        uuid: handle
        for name in nvml.listed(visible)
        for index, uuid, handle in found
        if nvml.is_named(name, index, uuid)
    }
