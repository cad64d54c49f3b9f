"""The configured GPU classes: ``t4``, a MIG class, and the classes of the classes file."""

from __future__ import annotations

from typing import Any

from gpuqueue.classes.gpu_class import T4_MEMORY, GpuClass, mig_class
from gpuqueue.classes.toml_file import from_toml
from gpuqueue.errors import SettingsError
from gpuqueue.model.names import MIG_PROFILE
from gpuqueue.settings.dispatcher import Settings


def configured(settings: Settings) -> dict[str, GpuClass]:
    """Return name → class. A class of the file replaces one of the same name."""
    defaults: dict[str, Any] = {
        "exclusive_patience": settings.exclusive_patience,
        "shared_patience": settings.shared_patience,
        "warm_seconds": settings.warm_seconds,
        "warm_jobs": settings.warm_jobs,
        "warm_age": settings.warm_age,
    }
    resource = settings.resource_name
    is_mig = bool(resource and MIG_PROFILE.match(resource.rpartition("/")[2]))
    found: dict[str, GpuClass] = {}
    if settings.t4_shared_slots or settings.t4_exclusive_slots:
        found["t4"] = GpuClass(
            "t4",
            resource if resource and not is_mig else "nvidia.com/gpu",
            shared_slots=settings.t4_shared_slots,
            exclusive_slots=settings.t4_exclusive_slots,
            memory=T4_MEMORY,
            **defaults,
        )
    if settings.mig_total_slots:
        if not resource:
            raise SettingsError(
                "GPU_RESOURCE_NAME is not set, but MIG_TOTAL_SLOTS requires it; set it to e.g."
                " nvidia.com/mig-1g.5gb"
            )
        mig = mig_class(resource, settings.mig_total_slots, **defaults)
        found[mig.name] = mig
    if settings.classes_file:
        try:
            text = settings.classes_file.read_text()
        except OSError as exc:
            raise SettingsError(
                f"GPUQUEUE_CLASSES_FILE={str(settings.classes_file)!r} cannot be read:"
                f" {exc.strerror}"
            ) from None
        found |= from_toml(text, str(settings.classes_file), **defaults)
    if not found:
        raise SettingsError(
            "T4_SHARED_SLOTS and T4_EXCLUSIVE_SLOTS are 0 and no other class is configured;"
            " configure at least one slot"
        )
    return found
