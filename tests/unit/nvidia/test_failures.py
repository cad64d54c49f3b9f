"""Messages of real GPU failures, and messages that only look like them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from gpuqueue.model.reasons import EndReason
from gpuqueue.nvidia.failures import CODES, MOST_SEARCHED, classify

OOM, INFRA = EndReason.GPU_OOM, EndReason.INFRA
TENSOR = "with shape[128,3,8,128,8,128] and type float on /job:localhost/replica:0/task:0/device"

OUT_OF_MEMORY = {
    "torch": (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 496.00 MiB. GPU 0 has a"
        " total capacity of 14.75 GiB"
    ),
    "torch before 2.5": (
        "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 14.76"
        " GiB total"
    ),
    "torch before 1.13": (
        "RuntimeError: CUDA out of memory. Tried to allocate 9.80 GiB (GPU 0; 14.76 GiB total"
        " capacity"
    ),
    "torch outside its allocator": (
        "RuntimeError: CUDA error: out of memory\nCUDA kernel errors might be asynchronously"
        " reported"
    ),
    "torch with a link": (
        "torch.AcceleratorError: CUDA error: out of memorySearch for `cudaErrorMemoryAllocation' in"
        " https://docs"
    ),
    "an old torch": (
        "RuntimeError: cuda runtime error (2) : out of memory at"
        " /opt/conda/THC/generic/THCStorage.cu:66"
    ),
    "cuBLAS below torch": (
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "cuBLAS below onnxruntime": (
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);"
    ),
    "onnxruntime": (
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=a ;"
        " expr=cudaStreamCreateWithFlags(&stream)"
    ),
    "TensorRT": "safeRuntime.cpp (25) - Cuda Error in allocate: 2 (out of memory)",
    "spconv": (
        "RuntimeError: tensor.h 168 cuda failed with error 2 out of memory. use"
        " CUDA_LAUNCH_BLOCKING=1"
    ),
    "cupy": (
        "cupy.cuda.memory.OutOfMemoryError: Out of memory allocating 25,600,000 bytes (allocated so"
        " far: 3,635,267,072)."
    ),
    "the runtime of cupy": (
        "cupy_backends.cuda.api.runtime.CUDARuntimeError: cudaErrorMemoryAllocation: out of memory"
    ),
    "numba": (
        "numba.cuda.cudadrv.driver.CudaAPIError: [2] Call to cuMemAlloc results in"
        " CUDA_ERROR_OUT_OF_MEMORY"
    ),
    "a recent numba": (
        "CudaAPIError: [CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc results in"
        " CUDA_ERROR_OUT_OF_MEMORY"
    ),
    "pycuda": "pycuda._driver.MemoryError: cuMemAlloc failed: out of memory",
    "rmm, as a MemoryError": (
        "MemoryError: std::bad_alloc: CUDA error at: mr.hpp68: cudaErrorMemoryAllocation out of"
        " memory"
    ),
    "jax": (
        "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to"
        " allocate 4770354232 bytes."
    ),
    "the allocator of jax": (
        "jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: Failed to allocate request for 2.99GiB on"
        " device 0"
    ),
    "the allocator of a recent jax": (
        "RESOURCE_EXHAUSTED: Allocator (GPU_0_bfc) ran out of memory trying to allocate 1.25TiB"
    ),
    "tensorflow": (
        "ResourceExhaustedError: {{function_node Conv2D}} OOM when allocating tensor"
        f" {TENSOR}:GPU:0 by GPU_0_bfc"
    ),
    "an old tensorflow": (
        "2 root error(s) found.\n  (0) Resource exhausted: OOM when allocating tensor"
        f" {TENSOR}:GPU:1"
    ),
    "tensorflow with XLA": (
        "ResourceExhaustedError: Graph execution error:\n\nDetected at node 'while' defined at"
        " (most recent call last):\n  File 'train.py', line 3\nOut of memory while trying to"
        " allocate 12884901888 bytes."
    ),
    "a copy in tensorflow": (
        "InternalError: Failed copying input tensor from /device:CPU:0 to"
        " /job:localhost/task:0/device:GPU:0 in order to run _EagerConst: Dst tensor is not"
        " initialized."
    ),
}
BROKEN = {
    "ECC": (
        "RuntimeError: CUDA error: uncorrectable ECC error encountered\nCompile with"
        " `TORCH_USE_CUDA_DSA` to enable"
    ),
    "ECC below tensorflow": (
        "failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC"
        " error"
    ),
    "ECC by number": "RuntimeError: CUDA error 214 at kernel.cu:12",
    "NVLink": "CUDA error: uncorrectable NVLink error detected during the execution",
    "busy": "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "busy, in an old version": (
        "RuntimeError: cuda runtime error (46) : all CUDA-capable devices are busy or unavailable"
        " at a.cu:66"
    ),
    "no GPU": "RuntimeError: No CUDA GPUs are available",
    "no GPU for CUDA": "CUDA Error: no CUDA-capable device is detected",
    "an old driver": (
        "CUDAError: cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA"
        " runtime version"
    ),
    "an old driver, in torch": (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040)."
    ),
    "no fabric manager": (
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions"
        " before calling NumCudaDevices() that might have already set an error? Error 802: system"
        " not yet initialized"
    ),
    "no fabric manager, in an old version": (
        "RuntimeError: cuda runtime error (802) : system not yet initialized at THCGeneral.cpp:50"
    ),
    "driver and library of different versions": (
        "CUDA error: system has unsupported display driver / cuda driver combination"
    ),
    "no MPS": "cudaErrorMpsConnectionFailed",
    "lost, in pynvml": "pynvml.NVMLError_GpuIsLost: GPU is lost",
    "lost, in nvidia-smi": (
        "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the"
        " system"
    ),
    "reset required": "NVML_ERROR_RESET_REQUIRED",
    "no driver": "pynvml.NVMLError_DriverNotLoaded: Driver Not Loaded",
    "version mismatch, in nvidia-smi": "Failed to initialize NVML: Driver/library version mismatch",
    "version mismatch, in pynvml": (
        "NVMLError_LibRmVersionMismatch: RM has detected an NVML/RM version mismatch."
    ),
    "fallen off the bus": "NVRM: Xid (PCI:0000:02:00): 79, GPU has fallen off the bus.",
    "an Xid of broken hardware": (
        "[ 12.5] NVRM: Xid (PCI:0000:3b:00): 48, pid=1234, An uncorrectable double bit error (DBE)"
    ),
}
OWN = {
    "a plain MemoryError": "MemoryError",
    "numpy": (
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 74.5 GiB for an array with"
        " shape (100000, 100000)"
    ),
    "torch on the host": (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't"
        " allocate memory: you tried to allocate 40000000000 bytes. Error code 12 (Cannot allocate"
        " memory)"
    ),
    "the allocator of the host": "MemoryError: std::bad_alloc",
    "fork": "OSError: [Errno 12] Cannot allocate memory",
    "a killed loader": "RuntimeError: DataLoader worker (pid 97) is killed by signal: Killed.",
    "jax on the host": (
        "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 400000000000 bytes."
    ),
    "tensorflow on the host": (
        f"ResourceExhaustedError: OOM when allocating tensor {TENSOR}:CPU:0 by allocator cpu"
    ),
    "tensorflow on a full disk": (
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError: a; No space left on device"
    ),
    "grpc": (
        'status = StatusCode.RESOURCE_EXHAUSTED\n\tdetails = "Received message larger than max'
        ' (17777780 vs. 4194304)"'
    ),
    "grpc in one line": (
        "RESOURCE_EXHAUSTED: grpc: received message larger than max (18900690 vs. 4194304)"
    ),
    "a quota of another service": (
        "google.api_core.exceptions.ResourceExhausted: 429 Quota exceeded for quota metric"
    ),
    "700": "RuntimeError: CUDA error: an illegal memory access was encountered",
    "700 by number": "cuda runtime error (700) : an illegal memory access was encountered",
    "710": "RuntimeError: CUDA error: device-side assert triggered",
    "719": "[719] Call to cuMemAlloc results in CUDA_ERROR_LAUNCH_FAILED",
    "209": "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    "222": "CUDA error: the provided PTX was compiled with an unsupported toolchain.",
    "101": "RuntimeError: CUDA error: invalid device ordinal",
    "804": (
        "cudaGetDeviceCount(). Error 804: forward compatibility was attempted on non supported HW"
    ),
    "a number with the same prefix": "CUDA failure 21: something else; CUDA error 2147: else",
    "an unknown number": "CUDA error " + "9" * 5000,
    "a name with the same prefix": (
        "cudaErrorMemoryAllocationHint, NOT_CUDA_ERROR_OUT_OF_MEMORY_EITHER"
    ),
    "torch without CUDA": "AssertionError: Torch not compiled with CUDA enabled",
    "an unrelated system": "RuntimeError: payment system not yet initialized",
    "an Xid caused by the program": "NVRM: Xid (PCI:0000:02:00): 31, pid=7, MMU Fault",
    "an Xid number without the driver": "ValueError: 79 rows, 48 columns; Xid 79; error 2",
    "a bus": "ValueError: the passenger has fallen off the bus",
    "a phone": "OSError: device 214 is busy or unavailable",
    "the word memory": "ValueError: out of memory slots in the game",
}


@pytest.mark.parametrize("message", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_message_means_out_of_gpu_memory(message: str) -> None:
    assert classify(message) == OOM
    assert classify(RuntimeError(message)) == OOM


@pytest.mark.parametrize("message", BROKEN.values(), ids=BROKEN)
def test_message_means_a_gpu_failure(message: str) -> None:
    assert classify(message) == INFRA
    assert classify(RuntimeError(message)) == INFRA


@pytest.mark.parametrize("message", OWN.values(), ids=OWN)
def test_message_means_no_gpu_failure(message: str) -> None:
    assert classify(message) is None
    assert classify(RuntimeError(message)) is None


@pytest.mark.parametrize("number", CODES)
def test_cuda_error_is_found_by_number_and_each_name(number: int) -> None:
    code = CODES[number]
    shown = [
        f"CUDA error {number}: what",
        f"cudaError_t({number})",
        *filter(None, (code.runtime, code.driver)),
    ]
    assert [classify(each) for each in shown] == [code.reason] * len(shown)


ABSENT = [
    "RuntimeError: No CUDA GPUs are available",
    "RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
    "cuda runtime error (35) : CUDA driver version is insufficient for CUDA runtime version",
    "cudaErrorNoDevice: no CUDA-capable device is detected",
    "NVMLError_DriverNotLoaded: Driver Not Loaded",
]


@pytest.mark.parametrize("message", ABSENT)
def test_missing_gpu_is_a_failure_only_if_one_was_given(message: str) -> None:
    assert (classify(message), classify(message, has_gpu=False)) == (INFRA, None)


def test_failure_of_an_existing_gpu_counts_without_a_given_one() -> None:
    assert classify(BROKEN["ECC"], has_gpu=False) == INFRA
    assert classify(OUT_OF_MEMORY["torch"], has_gpu=False) == OOM


# -- exceptions ------------------------------------------------------------------------------------


def an(name: str, *bases: type[Exception]) -> type[Exception]:
    """Return an exception type with the full name that it has in a library."""
    module, _, own = name.rpartition(".")
    return type(own, bases or (RuntimeError,), {"__module__": module})


TYPES: dict[str, tuple[str, type[Exception], str, EndReason | None]] = {
    "the type of torch with any message": ("torch.OutOfMemoryError", RuntimeError, "no room", OOM),
    "the former type of torch": ("torch.cuda.OutOfMemoryError", RuntimeError, "", OOM),
    "the type of cupy, a MemoryError": ("cupy.cuda.memory.OutOfMemoryError", MemoryError, "", OOM),
    "pycuda's": (
        "pycuda._driver.MemoryError",
        Exception,
        "cuMemAllocPitch failed: out of memory",
        OOM,
    ),
    "the type of jax with its status": (
        "jaxlib.xla_extension.XlaRuntimeError",
        RuntimeError,
        OUT_OF_MEMORY["jax"].partition(": ")[2],
        OOM,
    ),
    "the type of jax with another status": (
        "jaxlib.xla_extension.XlaRuntimeError",
        RuntimeError,
        "INVALID_ARGUMENT: no such axis",
        None,
    ),
    "tensorflow's": (
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError",
        Exception,
        OUT_OF_MEMORY["tensorflow"].partition(": ")[2],
        OOM,
    ),
    "the type of tensorflow for a full disk": (
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError",
        Exception,
        "checkpoint; No space left on device",
        None,
    ),
    "numba's": (
        "numba.cuda.cudadrv.driver.CudaAPIError",
        Exception,
        OUT_OF_MEMORY["numba"].partition(": ")[2],
        OOM,
    ),
    "pynvml's": ("pynvml.NVMLError_GpuIsLost", Exception, "GPU is lost", INFRA),
    "an unrelated type of the same name": (
        "shop.OutOfMemoryError",
        Exception,
        "no shelf is left",
        None,
    ),
    "a built-in type": ("builtins.MemoryError", MemoryError, "", None),
}


@pytest.mark.parametrize(("name", "base", "text", "reason"), TYPES.values(), ids=TYPES)
def test_exception_is_found_by_its_type(
    name: str, base: type[Exception], text: str, reason: EndReason | None
) -> None:
    assert classify(an(name, base)(text)) == reason


def test_derived_exception_type_is_found_too() -> None:
    assert classify(an("shop.TooLarge", an("torch.OutOfMemoryError"))("model")) == OOM


def raised(outer: Exception, inner: Exception, how: str) -> Exception:
    """Return the outer exception, with the inner one as cause, as context, or suppressed."""
    try:
        try:
            raise inner
        except Exception as exc:
            if how == "handling":
                raise outer  # noqa: B904
            raise outer from (exc if how == "caused" else None)
    except Exception as exc:
        return exc


@pytest.mark.parametrize(("how", "reason"), [("caused", OOM), ("handling", OOM), ("hidden", None)])
def test_cause_of_an_exception_counts_as_in_a_traceback(how: str, reason: EndReason | None) -> None:
    inner = raised(KeyError("loss"), an("torch.OutOfMemoryError")("CUDA out of memory"), "caused")
    assert classify(raised(ValueError("step 3 failed"), inner, how)) == reason


def test_last_raised_exception_decides() -> None:
    assert (
        classify(
            raised(RuntimeError(BROKEN["ECC"]), RuntimeError(OUT_OF_MEMORY["jax"]), "handling")
        )
        == INFRA
    )
    assert (
        classify(
            raised(RuntimeError(OUT_OF_MEMORY["jax"]), RuntimeError(BROKEN["ECC"]), "handling")
        )
        == OOM
    )


def test_gpu_failure_wins_over_out_of_memory() -> None:
    assert classify("\n".join([OUT_OF_MEMORY["torch"], BROKEN["fallen off the bus"]])) == INFRA


def test_members_of_an_exception_group_count() -> None:
    assert (
        classify(
            ExceptionGroup("workers", [ValueError("one"), RuntimeError(OUT_OF_MEMORY["numba"])])
        )
        == OOM
    )


def test_cyclic_exception_chain_terminates() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert classify(one) is None


def test_exception_without_a_usable_str_is_found_by_its_type() -> None:
    def unspeakable(self: Any) -> str:
        raise ZeroDivisionError

    assert (
        classify(
            type(
                "OutOfMemoryError", (Exception,), {"__module__": "torch", "__str__": unspeakable}
            )()
        )
        == OOM
    )
    assert classify(type("Mute", (Exception,), {"__str__": unspeakable})()) is None


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "filler",
    ["x", "CUDA ", "RESOURCE_EXHAUSTED: ", "GPU device handle for GPU ", "CUDA error in \n"],
)
def test_long_message_is_searched_at_both_ends_quickly(filler: str) -> None:
    noise = filler * (10 * MOST_SEARCHED // len(filler))
    assert classify(noise) is None
    assert classify(f"{OUT_OF_MEMORY['numba']}\n{noise}") == OOM
    assert classify(f"{noise}\n{OUT_OF_MEMORY['numba']}") == OOM


def test_no_gpu_library_is_imported() -> None:
    assert not {"torch", "cupy", "jax", "tensorflow", "pycuda", "numba"} & sys.modules.keys()
