"""Which image an attempt uses, and which images a job may name. Pure.

First match wins: the image of the job, of its class, GPU_EXECUTOR_IMAGE. A job may name the
configured images and those that GPU_IMAGE_ALLOW matches.
"""

from __future__ import annotations

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.settings.kubernetes import ClusterSettings


def check_image(image: str, settings: ClusterSettings, gpu_class: GpuClass) -> None:
    """Check that a job may name an image. Raises :class:`InvalidJob` if not."""
    configured = [each for each in (gpu_class.image, settings.executor_image) if each]
    if image in configured or any(pattern.matches(image) for pattern in settings.image_patterns):
        return
    # For `docker.io/library/x`, `x/y` and `registry.example/team/x` alike, an operator would allow
    # the folder.
    folder = image.rpartition("@")[0] or image
    folder = f"{folder.rpartition('/')[0]}/*" if "/" in folder else f"{folder.partition(':')[0]}:*"
    allowed = (
        ", ".join([*configured, *(pattern.text for pattern in settings.image_patterns)]) or "none"
    )
    raise InvalidJob.field(
        "gpu.image",
        image,
        f"is not an allowed image (allowed: {allowed})",
        "use one of those, or set GPU_IMAGE_ALLOW of the dispatchers to a pattern that matches it,"
        f" e.g. {folder}",
    )


def image_of(job_image: str | None, gpu_class: GpuClass, settings: ClusterSettings) -> str:
    """Return the image of a job. Raises :class:`InvalidJob` if it is not allowed or not set."""
    if job_image:
        if gpu_class.has_gpu:  # else its own class has allowed it when the job was accepted
            check_image(job_image, settings, gpu_class)
        return job_image
    image = gpu_class.image or settings.executor_image
    if not image:
        raise InvalidJob.field(
            "gpu.image",
            None,
            f"is not set, and class {gpu_class.name!r} has none",
            "set GPU_EXECUTOR_IMAGE of the dispatchers, or image of the class",
        )
    return image
