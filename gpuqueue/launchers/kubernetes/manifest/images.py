"""Which image a job gets, and whether it may name it. Pure.

A job's own image comes first, then its class's, then GPU_EXECUTOR_IMAGE. Those that are configured
may always be named; any other only where GPU_IMAGE_ALLOW lets it in.
"""

from __future__ import annotations

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import InvalidJob
from gpuqueue.settings.kubernetes import ClusterSettings


def check_image(image: str, settings: ClusterSettings, gpu_class: GpuClass) -> None:
    """Refuse an image that a job may not name. Raises :class:`InvalidJob` naming field, value and
    fix.
    """
    configured = [each for each in (gpu_class.image, settings.executor_image) if each]
    if image in configured or any(pattern.matches(image) for pattern in settings.image_patterns):
        return
    # For `docker.io/library/x`, `x/y` and `registry.example/team/x` alike the folder is what an
    # operator would let in.
    folder = image.rpartition("@")[0] or image
    folder = f"{folder.rpartition('/')[0]}/*" if "/" in folder else f"{folder.partition(':')[0]}:*"
    allowed = (
        ", ".join([*configured, *(pattern.text for pattern in settings.image_patterns)]) or "none"
    )
    raise InvalidJob.field(
        "gpu.image",
        image,
        f"may not be named by a job (allowed: {allowed})",
        "name one of those, or set GPU_IMAGE_ALLOW of the dispatchers to patterns that match it,"
        f" e.g. {folder}",
    )


def image_of(job_image: str | None, gpu_class: GpuClass, settings: ClusterSettings) -> str:
    """Return the image that a job gets. Raises :class:`InvalidJob` where it may not, or where
    nobody names one.
    """
    if job_image:
        check_image(job_image, settings, gpu_class)
        return job_image
    image = gpu_class.image or settings.executor_image
    if not image:
        raise InvalidJob.field(
            "gpu.image",
            None,
            f"is not said, and class {gpu_class.name!r} has none",
            "set GPU_EXECUTOR_IMAGE of the dispatchers, or image of the class",
        )
    return image
