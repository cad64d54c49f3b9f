"""The configured GPU classes: ``t4``, a MIG class, and the classes of the classes file; and the
cluster settings as a class changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuqueue.classes.fallbacks import check_larger
from gpuqueue.classes.gpu_class import T4_MEMORY, GpuClass, mig_class
from gpuqueue.classes.tenants_file import tenants_from_toml
from gpuqueue.classes.toml_file import check_scale, from_toml
from gpuqueue.errors import SettingsError
from gpuqueue.model.names import MIG_PROFILE
from gpuqueue.model.tenant import ClassRules
from gpuqueue.settings.dispatcher import Settings
from gpuqueue.settings.kubernetes import ClusterSettings

#: The fields of a class that replace the setting of the same name.
_REPLACING = ("secret_name", "quota_timeout", "unschedulable_timeout", "image_pull_timeout")


def of_class(settings: ClusterSettings, gpu_class: GpuClass) -> ClusterSettings:
    """Return the cluster settings for the jobs of a class."""
    own = {name: value for name in _REPLACING if (value := getattr(gpu_class, name)) is not None}
    return settings.model_copy(update=own) if own else settings


def configured(settings: Settings) -> dict[str, GpuClass]:
    """Return name → class. A class of the file replaces one of the same name."""
    defaults: dict[str, Any] = {
        "exclusive_patience": settings.exclusive_patience,
        "shared_patience": settings.shared_patience,
        "warm_seconds": settings.warm_seconds,
        "warm_jobs": settings.warm_jobs,
        "warm_age": settings.warm_age,
        "price_per_hour": settings.price_per_hour,
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
            domain=settings.t4_domain,
            scale_to=settings.t4_scale_to,
            **defaults,
        )
        check_scale(found["t4"], "T4_SCALE_TO", "T4_DOMAIN=node")
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
            text = settings.classes_file.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as exc:
            problem = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            raise SettingsError(
                f"GPUQUEUE_CLASSES_FILE={str(settings.classes_file)!r} cannot be read: {problem}"
            ) from None
        found |= from_toml(text, str(settings.classes_file), **defaults)
        check_larger(found, str(settings.classes_file))
    if not found:
        raise SettingsError(
            "T4_SHARED_SLOTS and T4_EXCLUSIVE_SLOTS are 0 and no other class is configured;"
            " configure at least one slot"
        )
    return found


def rules_of_tenants(
    settings: Settings, classes: Mapping[str, GpuClass]
) -> tuple[dict[str, ClassRules], str]:
    """Return class → the rules of its tenants, and the text of the file; empty without a file.

    Raises :class:`SettingsError`.
    """
    if not settings.tenants_file:
        return {}, ""
    try:
        text = settings.tenants_file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as exc:
        problem = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise SettingsError(
            f"GPUQUEUE_TENANTS_FILE={str(settings.tenants_file)!r} cannot be read: {problem}"
        ) from None
    return tenants_from_toml(text, str(settings.tenants_file), classes), text
