"""Classify a failure on a GPU: out of GPU memory, a failure of the GPU itself, or neither. Pure.

Never here: an import of a GPU library. The last line of a traceback, type and message, is matched
instead. A failure without a match is an error of the job, and so are the CUDA errors 700 (illegal
address), 710 (assert), 719 (launch failure), 209 and 222 (built for another GPU). A plain
MemoryError concerns host memory and matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from gpuqueue.model.reasons import EndReason

#: Characters of a message to search, half from each end: it may quote a whole kernel.
MOST_SEARCHED = 65_536


class Sign(NamedTuple):
    """A message of a failure. ``absent``: it reports a missing GPU, expected if none was given."""

    pattern: str
    reason: EndReason
    source: str
    absent: bool = False


class Code(NamedTuple):
    """An error of the CUDA runtime (driver_types.h) and driver (cuda.h), which share its number."""

    runtime: str
    driver: str
    reason: EndReason
    absent: bool = False


#: Sources: driver_types.h and cuda.h of CUDA 12.9.
CODES = {
    2: Code("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", EndReason.GPU_OOM),
    # Also the error without any driver.
    35: Code("cudaErrorInsufficientDriver", "", EndReason.INFRA, absent=True),
    46: Code("cudaErrorDevicesUnavailable", "CUDA_ERROR_DEVICE_UNAVAILABLE", EndReason.INFRA),
    100: Code("cudaErrorNoDevice", "CUDA_ERROR_NO_DEVICE", EndReason.INFRA, absent=True),
    214: Code("cudaErrorECCUncorrectable", "CUDA_ERROR_ECC_UNCORRECTABLE", EndReason.INFRA),
    220: Code("cudaErrorNvlinkUncorrectable", "CUDA_ERROR_NVLINK_UNCORRECTABLE", EndReason.INFRA),
    802: Code("cudaErrorSystemNotReady", "CUDA_ERROR_SYSTEM_NOT_READY", EndReason.INFRA),
    803: Code(
        "cudaErrorSystemDriverMismatch", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", EndReason.INFRA
    ),
    805: Code("cudaErrorMpsConnectionFailed", "CUDA_ERROR_MPS_CONNECTION_FAILED", EndReason.INFRA),
}
#: Xid numbers of the driver that mean broken hardware or a broken driver (Xid catalog of NVIDIA).
XIDS = frozenset({48, 63, 64, 74, 79, 94, 95, 119, 120})

OOM, INFRA = EndReason.GPU_OOM, EndReason.INFRA
SIGNS = (
    # -- failures of the GPU -----------------------------------------------------------------------
    Sign(
        r"\buncorrectable ECC error encountered\b",
        INFRA,
        "CUDA 214, the text of cudaGetErrorString",
    ),
    Sign(r"\buncorrectable NVLink error detected\b", INFRA, "CUDA 220"),
    Sign(
        r"\bCUDA-capable device(?:\(s\) is/are|s are) busy or unavailable\b",
        INFRA,
        "CUDA 46, now and before 11",
    ),
    Sign(
        r"\bCUDA driver version is insufficient for CUDA runtime version\b",
        INFRA,
        "CUDA 35",
        absent=True,
    ),
    Sign(
        r"\bThe NVIDIA driver on your system is too old\b",
        INFRA,
        "CUDA 35, in torch",
        absent=True,
    ),
    Sign(
        r"\bCUDA[^\n]{0,300}: system not yet initialized\b",
        INFRA,
        "CUDA 802; other programs use the same words",
    ),
    Sign(r"\bsystem has unsupported display driver / cuda driver combination\b", INFRA, "CUDA 803"),
    Sign(r"\bMPS client failed to connect to the MPS control daemon\b", INFRA, "CUDA 805"),
    Sign(r"\bno CUDA-capable device is detected\b", INFRA, "CUDA 100", absent=True),
    Sign(r"\bNo CUDA GPUs are available\b", INFRA, "CUDA 100, in torch", absent=True),
    Sign(
        r"\bFound no NVIDIA driver on your system\b",
        INFRA,
        "torch without libcuda",
        absent=True,
    ),
    Sign(r"\bNVML(?:_ERROR_GPU_IS_LOST|Error_GpuIsLost)\b", INFRA, "nvml.h 15, pynvml"),
    Sign(r"\bNVML(?:_ERROR_RESET_REQUIRED|Error_ResetRequired)\b", INFRA, "nvml.h 16, pynvml"),
    Sign(
        r"\bNVML(?:_ERROR_LIB_RM_VERSION_MISMATCH|Error_LibRmVersionMismatch)\b",
        INFRA,
        "nvml.h 18, pynvml",
    ),
    Sign(
        r"\bNVML(?:_ERROR_DRIVER_NOT_LOADED|Error_DriverNotLoaded)\b",
        INFRA,
        "nvml.h 9, pynvml",
        absent=True,
    ),
    Sign(r"\bFailed to initialize NVML: Driver/library version mismatch\b", INFRA, "nvidia-smi"),
    Sign(r"\bdevice handle for GPU[^\n]{0,80}: GPU is lost\b", INFRA, "nvidia-smi"),
    Sign(r"\b(?:GPU|NVRM)\b[^\n]{0,80}\bfallen off the bus\b", INFRA, "log of the driver"),
    # -- out of GPU memory -------------------------------------------------------------------------
    Sign(r"\b(?:CUDA|HIP|XPU) out of memory\b", OOM, "torch"),
    Sign(
        r"\bCUDA (?:runtime )?error[^\n:]{0,40}: out of memory", OOM, "torch, outside its allocator"
    ),
    Sign(r"\btorch\.(?:cuda\.)?OutOfMemoryError\b", OOM, "torch: torch.cuda. before 2.5"),
    Sign(r"\bcupy\.cuda\.memory\.OutOfMemoryError\b", OOM, "cupy; it is a MemoryError"),
    Sign(r"\bpycuda\._?driver\.MemoryError\b", OOM, "pycuda"),
    Sign(
        r"\bcu(?:da)?(?:Mem|Array|Malloc)\w* failed: out of memory\b",
        OOM,
        "pycuda, mxnet: the failed call",
    ),
    Sign(
        r"\bCU(?:BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED\b",
        OOM,
        "CUDA libraries: a failed cudaMalloc()",
    ),
    Sign(
        r"\b(?:RESOURCE_EXHAUSTED|ResourceExhaustedError|Resource exhausted):"
        r" [\s\S]{0,2000}?\b(?:Out of memory while trying to"
        r" allocate|Failed to allocate request for|Allocator \(GPU_\d+_bfc\) ran out of memory)\b",
        OOM,
        "XLA on a GPU, used by jax and tensorflow; 'Out of memory allocating' is its CPU client",
    ),
    Sign(
        r"\bOOM when allocating tensor\b[^\n]{0,300}\bdevice:GPU:\d",
        OOM,
        "tensorflow; the same on device:CPU is host memory",
    ),
    Sign(
        r"\bGPU:\d[^\n]{0,200}: Dst tensor is not initialized\b",
        OOM,
        "tensorflow: no room for a copy to the GPU",
    ),
)
_NAMES = {name: code for code in CODES.values() for name in (code.runtime, code.driver) if name}
_NAME = rf"\b(?:{'|'.join(_NAMES)})\b"
#: Messages with the number of a CUDA error: "cuda runtime error (46)", "CUDA failure 2",
#: "Cuda Error in allocate: 2", "cudaError_t 214".
_NUMBERS = (
    (
        r"(?i)\bcuda(?: runtime| driver)? ?(?:error(?:_t)?|failure|failed with error)(?: in \w+|"
        r" code)?[ :=(#]{1,3}(\d{1,4})\b"
    ),
    r"\bcudaGetDeviceCount\(\)[^\n]{0,300}\bError (\d{1,4}):",
)
_XID = r"\bNVRM: Xid \(PCI:[0-9A-Fa-f:.]+\): (\d{1,4})\b"


def classify(failure: BaseException | str, *, has_gpu: bool = True) -> EndReason | None:
    """Return GPU_OOM, INFRA for a failure of the GPU itself, or None for an error of the job.

    The first match in the chain of an exception decides: the raised one, then its causes, as in a
    traceback. ``has_gpu=False``: the process has no GPU, so the absence of one is no failure.
    """
    texts = [failure] if isinstance(failure, str) else (_shown(each) for each in _chain(failure))
    return next((reason for text in texts if (reason := _read(text, has_gpu))), None)


def _read(text: str, has_gpu: bool) -> EndReason | None:
    if len(text) > MOST_SEARCHED:
        text = text[: MOST_SEARCHED // 2] + "\n" + text[-MOST_SEARCHED // 2 :]
    # Compiled only after a failure: at import, it would cost every executor some milliseconds.
    matches: list[Sign | Code] = [sign for sign in SIGNS if re.search(sign.pattern, text)]
    matches += [_NAMES[name] for name in re.findall(_NAME, text)]
    matches += [
        code
        for pattern in _NUMBERS
        for number in re.findall(pattern, text)
        if (code := CODES.get(int(number)))
    ]
    reasons = {each.reason for each in matches if has_gpu or not each.absent}
    if any(int(number) in XIDS for number in re.findall(_XID, text)):
        reasons.add(INFRA)
    # A failing GPU may also fail to allocate, but a lack of memory does not break a GPU.
    return INFRA if INFRA in reasons else OOM if OOM in reasons else None


def _chain(raised: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes or contexts, and the members of groups, each once."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [raised]
    while todo:
        exc = todo.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        yield exc
        todo.append(exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__))
        if isinstance(exc, BaseExceptionGroup):
            todo += reversed(exc.exceptions)


def _shown(exc: BaseException) -> str:
    """Return the last line of its traceback, with the names of its base types."""
    try:
        text = str(exc)
    except Exception:  # __str__ of an exception may raise anything
        text = ""
    kinds = (
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in type(exc).__mro__
        if kind.__module__ != "builtins"
    )
    return "\n".join([*kinds, f"{type(exc).__qualname__}: {text}"])
