"""The classes file: TOML text with one table per class, parsed and checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from gpuqueue.classes.gpu_class import DOMAINS, NODE, GpuClass
from gpuqueue.classes.kubernetes_fields import kubernetes_fields
from gpuqueue.classes.toml_tables import check_keys, table, tables
from gpuqueue.errors import InvalidJob, SettingsError, shown
from gpuqueue.model.kube_syntax import amount
from gpuqueue.model.names import (
    CHOOSING,
    CLASS_NAME,
    INTERNAL,
    MIG_PROFILE,
    QUEUE_PREFIX,
    parse_queue,
)
from gpuqueue.model.request import MOST_SECONDS, parse_memory
from gpuqueue.model.unbound import MOST_NODES
from gpuqueue.model.usage import price_text

#: Fields with a whole number → the least and the most. Scripts and Kubernetes keep these exactly.
_NUMBERS = {
    "shared_slots": (0, 10_000),
    "exclusive_slots": (0, 10_000),
    "exclusive_patience": (1, 1_000_000),
    "shared_patience": (1, 1_000_000),
    "slices": (1, 7),
    "warm_jobs": (1, 1_000_000),
    "gpus": (0, 64),
    "scale_to": (1, MOST_NODES),
}
#: Fields with seconds → the least and the most.
_SECONDS = {
    "warm_seconds": (0, 86_400),
    "warm_age": (1, 604_800),
    "default_time_limit": (1, MOST_SECONDS),
    "max_time_limit": (1, MOST_SECONDS),
    "quota_timeout": (1, 86_400),
    "unschedulable_timeout": (1, 86_400),
    "image_pull_timeout": (1, 86_400),
    "start_timeout": (1, 86_400),
}


def from_toml(text: str, source: str, **defaults: Any) -> dict[str, GpuClass]:
    """Parse ``[classes.<name>]`` tables; ``source`` is the path of the file.

    Raises :class:`SettingsError` with file, field, value, problem and fix.
    """
    content, form = tables(text, source, "GPUQUEUE_CLASSES_FILE"), "[classes.NAME]"
    check_keys(content, ("classes",), source)
    found = content.get("classes", {})
    return {
        name: _from_table(name, table(own, where, form), where, defaults)
        for name, own in table(found, f"{source}: classes", form).items()
        if (where := f"{source}: classes.{name}")
    }


def _from_table(
    name: str, own: Mapping[str, Any], where: str, defaults: Mapping[str, Any]
) -> GpuClass:
    taken = (*CHOOSING, *INTERNAL)
    if not CLASS_NAME.match(name) or name in taken or name.startswith(QUEUE_PREFIX):
        raise SettingsError(
            f"{where}: {name!r} is not a valid class name; use lower-case letters, digits, '.', '-'"
            f" (not {', '.join(taken)}, {QUEUE_PREFIX}…)"
        )
    check_keys(own, {each.name for each in fields(GpuClass)} - {"name", "domains"}, where)
    if "resource" in own and not (isinstance(own["resource"], str) and own["resource"]):
        raise SettingsError(
            f"{where}.resource={own['resource']!r} is not the name of a resource; use e.g."
            " 'nvidia.com/gpu'"
        )
    values = {**defaults, **own}
    _check_numbers(values, where)
    _check_seconds(values, where)
    if values.get("domain") not in (None, *DOMAINS):
        raise SettingsError(
            f"{where}.domain={values['domain']!r} is no domain; use one of: {', '.join(DOMAINS)}"
        )
    if "memory" in values:
        try:
            values["memory"] = parse_memory(values["memory"], f"{where}.memory")
        except InvalidJob as exc:
            raise SettingsError(str(exc)) from None
    if values.get("price_per_hour") is not None:
        try:
            values["price_per_hour"] = price_text(values["price_per_hour"])
        except ValueError as exc:
            price = values["price_per_hour"]
            raise SettingsError(f"{where}.price_per_hour={price!r} {exc}") from None
    if "larger" in own and not isinstance(own["larger"], str):
        raise SettingsError(f"{where}.larger={own['larger']!r} is not a class; use e.g. 'a100'")
    if "devices" in values:
        values["devices"] = _devices(values["devices"], where)
    values |= kubernetes_fields(own, where)
    made = GpuClass(name, **values)
    _check_queues(made, where)
    if not made.shared_slots and not made.exclusive_slots:
        raise SettingsError(f"{where} has no slots; set shared_slots or exclusive_slots")
    _check_together(made, where)
    return made


def _check_queues(made: GpuClass, where: str) -> None:
    """Check that no queue of a class is that of another one, and that all its jobs have a queue."""
    for queue in made.taken_queues:
        try:
            leads_to = parse_queue(queue).gpu_class
        except InvalidJob:
            leads_to = "" if queue in made.queues else made.name
        if leads_to != made.name:
            raise SettingsError(
                f"{where}: the queue {queue} does not lead to a class {made.name!r}; use a name"
                f" without a '.', e.g. {made.name.replace('.', '-')!r}"
            )


def _check_together(made: GpuClass, where: str) -> None:
    """Check fields that limit one another."""
    if made.nodes and made.domain != NODE:
        raise SettingsError(
            f"{where}.nodes={made.nodes!r} names its domains, but domain={made.domain!r}; set"
            " domain = 'node', or use node_selector"
        )
    check_scale(made, f"{where}.scale_to", "domain = 'node'")
    default, most = made.default_time_limit, made.max_time_limit
    if default and most and default > most:
        raise SettingsError(
            f"{where}.default_time_limit={default!r} exceeds max_time_limit={most!r}; lower it, or"
            " raise max_time_limit"
        )
    shm, memory = amount(made.shm_size), amount(made.host_memory)
    if shm is not None and memory is not None and shm > memory:
        raise SettingsError(
            f"{where}.shm_size={made.shm_size!r} exceeds host_memory={made.host_memory!r}, which"
            " its content counts against; lower it, or raise host_memory"
        )
    if made.gpus > 1 and made.shared_slots:
        raise SettingsError(
            f"{where}.gpus={made.gpus} needs whole GPUs, but shared_slots={made.shared_slots};"
            " use exclusive_slots, or gpus = 1"
        )
    if made.gpus > 1 and MIG_PROFILE.match(made.resource.rpartition("/")[2]):
        raise SettingsError(
            f"{where}.gpus={made.gpus} needs whole GPUs, but resource={made.resource!r} is a MIG"
            " slice; a process can use one slice: use gpus = 1"
        )


def check_scale(made: GpuClass, where: str, by_node: str) -> None:
    """Check how many nodes a class may have. ``where`` names the setting, ``by_node`` the one that
    makes nodes its domains.
    """
    if made.scale_to is None:
        return
    if made.domain != NODE:
        raise SettingsError(
            f"{where}={made.scale_to} counts nodes, but domain={made.domain!r}; set {by_node}, or"
            " remove it"
        )
    if made.scale_to < len(made.nodes):
        raise SettingsError(
            f"{where}={made.scale_to} is below the {len(made.nodes)} nodes of the class; use at"
            f" least {len(made.nodes)}"
        )


def _check_numbers(values: Mapping[str, Any], where: str) -> None:
    for key, (least, most) in _NUMBERS.items():
        value = values.get(key, least)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise SettingsError(
                f"{where}.{key}={shown(value, 80)} is not a whole number of {least} to {most};"
                " use e.g. 1"
            )


def _check_seconds(values: Mapping[str, Any], where: str) -> None:
    for key, (least, most) in _SECONDS.items():
        value = values.get(key, least)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not least <= value <= most:
            raise SettingsError(
                f"{where}.{key}={value!r} is not a number of seconds; use {least} to {most}"
            )


def _devices(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(index) is int and index >= 0 for index in value):
        raise SettingsError(
            f"{where}.devices={value!r} is not a list of GPU indexes; use e.g. devices = [0, 1]"
        )
    if len(set(value)) < len(value):
        raise SettingsError(f"{where}.devices={value!r} lists a GPU twice; list each GPU once")
    return tuple(value)
