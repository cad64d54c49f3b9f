"""Samples the GPU of a running job in a thread of the executor: which GPU, and its memory use.

All of it is optional: without pynvml, driver or GPU there are no samples and no messages. The job
never waits for a sample.

NVML reports the memory of the device: on a time-sliced GPU this includes other jobs, on a MIG slice
it does not. The memory of this process alone is known only from torch.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from gpuqueue.nvidia import nvml

#: Seconds before the first sample: no job uses its GPU earlier, and a shorter job costs nothing.
FIRST = 0.2
#: Seconds between samples: OFTEN for the first ``EARLY`` seconds, while a model is loaded and the
#: batch size takes effect, then SELDOM.
OFTEN, SELDOM = 1.0, 5.0
EARLY = 30.0
#: Samples are reported again if one has grown by this factor, at the earliest after ``QUIET``
#: seconds.
GROWN = 1.05
QUIET = 10.0


class Sample(TypedDict, total=False):
    """The GPU of the job. Absent fields are unknown. Memory is the peak so far, in bytes."""

    gpu: str
    """UUIDs of the GPUs or MIG slices, separated by commas."""
    gpu_memory_peak: int
    """Memory use of the device or slice by all processes, including the driver reserve."""
    gpu_memory_own: int
    """Memory use of this process, as counted by the allocator of torch."""
    gpu_error: str
    """The GPU failure that ended the attempt."""


class Sampler:
    """A context manager that samples the GPU.

    Args:
        report: called from the thread with the first sample, and when one has grown. An exception
            is dropped, and the sample is reported again.
        visible: CUDA_VISIBLE_DEVICES of this process. None: the job has every GPU that NVML lists.
        pauses: seconds until the first sample, between early samples, and between later ones.
    """

    def __init__(
        self,
        report: Callable[[Sample], object],
        visible: str | None,
        pauses: tuple[float, float, float] = (FIRST, OFTEN, SELDOM),
    ) -> None:
        self._report = report
        self._visible = visible
        self._pauses = pauses
        self._sample, self._reported = Sample(), Sample()
        self._reported_at = 0.0
        self._over = threading.Event()

    def __enter__(self) -> Sampler:
        if self._visible is None or nvml.listed(self._visible):
            with contextlib.suppress(RuntimeError):  # no thread is left for it
                # Not of threading: that would wait for its begin, for good without memory.
                _thread.start_new_thread(self._run, ())
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()  # without a join: NVML may hang with its GPU

    def latest(self) -> Sample:
        """Return the sample so far, with a last figure of torch, but not of NVML."""
        return _most(self._sample, own_memory())

    def _run(self) -> None:
        # Signals must reach the thread of the job.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        first, often, seldom = self._pauses
        if self._over.wait(first):
            return
        # Without pynvml or driver there are no samples; after the loss of a GPU, no more samples.
        with contextlib.suppress(Exception):
            pynvml = importlib.import_module("pynvml")  # optional, so not an import statement
            pynvml.nvmlInit()
            started, gpus = time.monotonic(), _gpus(pynvml, self._visible)
            while gpus and not self._over.is_set():
                self._take(pynvml, gpus)
                self._over.wait(often if time.monotonic() - started < EARLY else seldom)

    def _take(self, pynvml: Any, gpus: Mapping[str, Any]) -> None:
        used = sum(int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in gpus.values())
        sample = self._sample = _most(
            self._sample, Sample(gpu=",".join(gpus), gpu_memory_peak=used), own_memory()
        )
        now = time.monotonic()
        if is_news(self._reported, sample, now - self._reported_at):
            with contextlib.suppress(Exception):
                self._report(sample)
                self._reported, self._reported_at = sample, now


def has_gpu(environ: Mapping[str, str]) -> bool:
    """Whether a process with this environment has a GPU: from a dispatcher, or from its pod."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    return "GPUQUEUE_POD_UID" in environ if visible is None else bool(nvml.listed(visible))


def is_news(reported: Sample, sample: Sample, seconds: float) -> bool:
    """Whether to report a sample ``seconds`` after the last report. The first is due at once."""
    if not reported:
        return bool(sample)
    if seconds < QUIET:
        return False
    peak = sample.get("gpu_memory_peak", 0) > reported.get("gpu_memory_peak", 0) * GROWN
    return peak or sample.get("gpu_memory_own", 0) > reported.get("gpu_memory_own", 0) * GROWN


def own_memory() -> Sample:
    """Return the peak of the tensors of this process, if it uses a GPU with torch.

    torch is not imported here.
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


def _gpus(pynvml: Any, visible: str | None) -> dict[str, Any]:
    """Return UUID → handle of the GPUs of this process."""
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
