"""What a failure on a GPU looks like: an exception, or a text, → out of GPU memory, the GPU's own
failure, or neither. Pure.

No GPU library is imported: its exceptions are known by the names of their types and by what they
say, the way the last line of a traceback shows both. What matches nothing is the job's own error;
so are CUDA's 700 (illegal address), 710 (assert), 719 (launch failure), 209 and 222 (built for
another GPU). A plain MemoryError is the host's memory, and says nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from gpuqueue.model.reasons import EndReason

#: Characters of a message that are looked at, half from each end: a failed kernel may be quoted in
#: full.
LOOKED_AT = 65_536


class Sign(NamedTuple):
    """One way in which a failure shows. ``absent``: it says that there is no GPU, which fails
    nobody who was given none.
    """

    pattern: str
    reason: EndReason
    source: str
    absent: bool = False


class Code(NamedTuple):
    """An error of the CUDA runtime (driver_types.h) and driver (cuda.h): both number these alike."""

    runtime: str
    driver: str
    reason: EndReason
    absent: bool = False


#: Sources: driver_types.h and cuda.h of CUDA 12.9.
CODES = {
    2: Code("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", EndReason.GPU_OOM),
    35: Code(
        "cudaErrorInsufficientDriver", "", EndReason.INFRA, absent=True
    ),  # also what it says without any driver
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
#: Numbers of the driver's Xid messages that tell of broken hardware or a broken driver (NVIDIA's
#: catalogue of Xid errors).
XIDS = frozenset({48, 63, 64, 74, 79, 94, 95, 119, 120})

OOM, INFRA = EndReason.GPU_OOM, EndReason.INFRA
SIGNS = (
    # -- the GPU's own failure ---------------------------------------------------------------------
    Sign(
        r"\buncorrectable ECC error encountered\b", INFRA, "CUDA 214, as cudaGetErrorString says it"
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
        "CUDA 35, in torch's words",
        absent=True,
    ),
    Sign(
        r"\bCUDA[^\n]{0,300}: system not yet initialized\b",
        INFRA,
        "CUDA 802; the words alone are anybody's",
    ),
    Sign(r"\bsystem has unsupported display driver / cuda driver combination\b", INFRA, "CUDA 803"),
    Sign(r"\bMPS client failed to connect to the MPS control daemon\b", INFRA, "CUDA 805"),
    Sign(r"\bno CUDA-capable device is detected\b", INFRA, "CUDA 100", absent=True),
    Sign(r"\bNo CUDA GPUs are available\b", INFRA, "CUDA 100, in torch's words", absent=True),
    Sign(
        r"\bFound no NVIDIA driver on your system\b",
        INFRA,
        "torch, where libcuda is missing",
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
    Sign(r"\b(?:GPU|NVRM)\b[^\n]{0,80}\bfallen off the bus\b", INFRA, "the driver's log"),
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
        "pycuda, mxnet: the call that failed",
    ),
    Sign(
        r"\bCU(?:BLAS|DNN|SOLVER|SPARSE)_STATUS_ALLOC_FAILED\b",
        OOM,
        "CUDA's libraries: a cudaMalloc() that failed",
    ),
    Sign(
        r"\b(?:RESOURCE_EXHAUSTED|ResourceExhaustedError|Resource exhausted):"
        r" [\s\S]{0,2000}?\b(?:Out of memory while trying to"
        r" allocate|Failed to allocate request for|Allocator \(GPU_\d+_bfc\) ran out of memory)\b",
        OOM,
        "XLA on a GPU, below jax and tensorflow; 'Out of memory allocating' is its CPU client's",
    ),
    Sign(
        r"\bOOM when allocating tensor\b[^\n]{0,300}\bdevice:GPU:\d",
        OOM,
        "tensorflow; the same on device:CPU is host memory",
    ),
    Sign(
        r"\bGPU:\d[^\n]{0,200}: Dst tensor is not initialized\b",
        OOM,
        "tensorflow, where a copy to the GPU had no room",
    ),
)
_NAMES = {name: code for code in CODES.values() for name in (code.runtime, code.driver) if name}
_NAME = rf"\b(?:{'|'.join(_NAMES)})\b"
#: Where a number is one of CUDA's: "cuda runtime error (46)", "CUDA failure 2", "Cuda Error in
#: allocate: 2", "cudaError_t 214".
_NUMBERS = (
    (
        r"(?i)\bcuda(?: runtime| driver)? ?(?:error(?:_t)?|failure|failed with error)(?: in \w+|"
        r" code)?[ :=(#]{1,3}(\d{1,4})\b"
    ),
    r"\bcudaGetDeviceCount\(\)[^\n]{0,300}\bError (\d{1,4}):",
)
_XID = r"\bNVRM: Xid \(PCI:[0-9A-Fa-f:.]+\): (\d{1,4})\b"


def classify(failure: BaseException | str, *, has_gpu: bool = True) -> EndReason | None:
    """Return GPU_OOM, INFRA where the GPU itself failed, or None for a failure of the job's own.

    Of an exception the first in its chain that tells decides: the one raised, then what it came
    from, as a traceback shows it. ``has_gpu=False``: the process was given no GPU, and that there
    is none is nobody's failure.
    """
    texts = [failure] if isinstance(failure, str) else (_shown(each) for each in _chain(failure))
    return next((reason for text in texts if (reason := _read(text, has_gpu))), None)


def _read(text: str, has_gpu: bool) -> EndReason | None:
    if len(text) > LOOKED_AT:
        text = text[: LOOKED_AT // 2] + "\n" + text[-LOOKED_AT // 2 :]
    # Compiled here, where something has failed: at import it would cost every executor some
    # milliseconds.
    said: list[Sign | Code] = [sign for sign in SIGNS if re.search(sign.pattern, text)]
    said += [_NAMES[name] for name in re.findall(_NAME, text)]
    said += [
        code
        for pattern in _NUMBERS
        for number in re.findall(pattern, text)
        if (code := CODES.get(int(number)))
    ]
    reasons = {each.reason for each in said if has_gpu or not each.absent}
    if any(int(number) in XIDS for number in re.findall(_XID, text)):
        reasons.add(INFRA)
    # A GPU that fails may also fail to allocate; what is out of memory does not break the GPU.
    return INFRA if INFRA in reasons else OOM if OOM in reasons else None


def _chain(raised: BaseException) -> Iterator[BaseException]:
    """Walk through an exception, its causes or contexts, and the members of groups; each once."""
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
    """Return what a traceback's last line says of it, with the names of its base types too."""
    try:
        text = str(exc)
    except Exception:  # an exception's own __str__ may do anything
        text = ""
    kinds = (
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in type(exc).__mro__
        if kind.__module__ != "builtins"
    )
    return "\n".join([*kinds, f"{type(exc).__qualname__}: {text}"])
