"""The environment of a container: values from Secrets, ConfigMaps and the pod, and ``$(VAR)``."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.doubles.kubernetes.objects.bodies import Body
from tests.doubles.kubernetes.objects.kinds import CONFIG_MAPS, SECRETS, Resource
from tests.doubles.kubernetes.objects.quantity import parse
from tests.doubles.kubernetes.objects.store import Store

_REFERENCE = re.compile(r"\$(\$|\((?P<name>[^)]*)\))")
_SUBSCRIPT = re.compile(r"metadata\.(annotations|labels)\['(.*)'\]")


class ConfigError(Exception):
    """A container that refers to a missing object or key (``CreateContainerConfigError``)."""


def expand(text: str, known: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by its value; ``$$`` is a dollar, and an unknown name stays."""

    def value(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return known.get(found["name"], found[0])

    return _REFERENCE.sub(value, text)


class Environment:
    """Computes the environment of the containers of a pod.

    Args:
        store: has the Secrets and ConfigMaps.
        pod: the pod.
        status: fields of the pod that its stored object may lack yet (``status.podIP``).
    """

    def __init__(self, store: Store, pod: Body, status: Mapping[str, str]) -> None:
        self._store = store
        self._pod = pod
        self._status = status
        self._namespace = pod["metadata"]["namespace"]

    def of(self, container: Body) -> dict[str, str]:
        """Return the variables that the manifest sets for a container.

        Raises:
            ConfigError: a Secret, a ConfigMap or a key is missing.
        """
        known: dict[str, str] = {}
        for source in container.get("envFrom") or ():
            known |= self._all_of(source)
        for variable in container.get("env") or ():
            if (source := variable.get("valueFrom")) is None:
                known[variable["name"]] = expand(variable.get("value", ""), known)
            elif (value := self._from(source, container)) is not None:
                known[variable["name"]] = value
        return known

    def _all_of(self, source: Body) -> dict[str, str]:
        prefix = source.get("prefix", "")
        for field, resource in (("secretRef", SECRETS), ("configMapRef", CONFIG_MAPS)):
            if (ref := source.get(field)) is not None:
                data = self._data(resource, ref["name"], optional=ref.get("optional", False))
                return {prefix + key: value for key, value in (data or {}).items()}
        return {}

    def _from(self, source: Body, container: Body) -> str | None:
        for field, resource in (("secretKeyRef", SECRETS), ("configMapKeyRef", CONFIG_MAPS)):
            if (ref := source.get(field)) is not None:
                optional = ref.get("optional", False)
                data = self._data(resource, ref["name"], optional=optional)
                if data is not None and ref["key"] not in data and not optional:
                    raise ConfigError(
                        f"couldn't find key {ref['key']} in {resource.kind}"
                        f" {self._namespace}/{ref['name']}"
                    )
                return (data or {}).get(ref["key"])
        if (field_ref := source.get("fieldRef")) is not None:
            return self._field(field_ref["fieldPath"])
        if (resource_ref := source.get("resourceFieldRef")) is not None:
            return _amount(container, resource_ref)
        return None

    def _data(self, resource: Resource, name: str, *, optional: bool) -> dict[str, str] | None:
        body = self._store.get(resource, self._namespace, name)
        if body is None:
            if optional:
                return None
            raise ConfigError(f'{resource.kind.lower()} "{name}" not found')
        decode: Callable[[str], str] = (
            (lambda value: base64.b64decode(value).decode()) if resource is SECRETS else str
        )
        return {key: decode(value) for key, value in (body.get("data") or {}).items()}

    def _field(self, path: str) -> str:
        if found := _SUBSCRIPT.fullmatch(path):
            return str((self._pod["metadata"].get(found[1]) or {}).get(found[2], ""))
        if path in self._status:
            return self._status[path]
        at: Any = self._pod
        for step in path.split("."):
            at = at.get(step) if isinstance(at, Mapping) else None
        return "" if at is None else str(at)


def missing_volume(store: Store, pod: Body) -> str:
    """Return the message about the first volume whose Secret or ConfigMap is missing; empty if all
    exist.
    """
    for volume in pod["spec"].get("volumes") or ():
        for field, key, resource in (
            ("secret", "secretName", SECRETS),
            ("configMap", "name", CONFIG_MAPS),
        ):
            source = volume.get(field)
            if source is None or source.get("optional"):
                continue
            if store.get(resource, pod["metadata"]["namespace"], source.get(key, "")) is None:
                why = f'{resource.kind.lower()} "{source.get(key, "")}" not found'
                return f'MountVolume.SetUp failed for volume "{volume["name"]}" : {why}'
    return ""


def _amount(container: Body, ref: Body) -> str:
    """Return a resource of the container in units of the divisor, rounded up; 0 if it is unset."""
    kind, _, name = ref["resource"].partition(".")
    stated = (container.get("resources") or {}).get(kind, {}).get(name, "0")
    return str(math.ceil(parse(stated) / (parse(ref.get("divisor") or "1") or 1)))
