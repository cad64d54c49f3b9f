"""Label and field selectors: parsed once from a query, then matched against many objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.doubles.kubernetes.objects.errors import bad_request
from tests.doubles.kubernetes.objects.kinds import EVENTS, NODES, PODS, SECRETS, Resource

Values = Mapping[str, str]
Match = Callable[[Values], bool]

#: resource → selectable fields beside ``metadata.name`` and ``metadata.namespace``
_FIELDS: dict[Resource, tuple[str, ...]] = {
    PODS: (
        "spec.nodeName",
        "status.phase",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
    ),
    EVENTS: (
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "reason",
        "type",
        "source",
    ),
    NODES: ("spec.unschedulable",),
    SECRETS: ("type",),
}

_STEPS = {
    resource: [(path, path.split(".")) for path in paths] for resource, paths in _FIELDS.items()
}

_TERM = re.compile(
    r"\s*(?:(?P<absent>!\s*[\w./-]+)"
    r"|(?P<set>[\w./-]+)\s+(?P<how>in|notin)\s*\((?P<values>[^)]*)\)"
    r"|(?P<key>[\w./-]+)\s*(?P<op>==|!=|=)\s*(?P<value>[\w.-]*)"
    r"|(?P<present>[\w./-]+))\s*(?:,|$)"
)


def labels(text: str) -> Match | None:
    """Parse a label selector; None selects everything.

    Raises:
        Refused: 400, the text is no label selector.
    """
    if not text.strip():
        return None
    terms: list[Match] = []
    at = 0
    while at < len(text):
        found = _TERM.match(text, at)
        if found is None:
            raise bad_request(
                f"unable to parse requirement: found '{text[at:]}', expected: a label selector"
            )
        terms.append(_term(found))
        at = found.end()
    return lambda values: all(term(values) for term in terms)


def _term(found: re.Match[str]) -> Match:
    if found["absent"]:
        name = found["absent"][1:].strip()
        return lambda values: name not in values
    if found["set"]:
        key, wanted = found["set"], {value.strip() for value in found["values"].split(",")}
        if found["how"] == "in":
            return lambda values: values.get(key) in wanted
        return lambda values: values.get(key) not in wanted
    if found["key"]:
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda values: values.get(key) != value
        return lambda values: values.get(key) == value
    key = found["present"]
    return lambda values: key in values


def fields(resource: Resource, text: str) -> Match | None:
    """Parse a field selector; None selects everything.

    Raises:
        Refused: 400, the field is not selectable, or the text is no field selector.
    """
    if not text.strip():
        return None
    known = ("metadata.name", "metadata.namespace", *_FIELDS.get(resource, ()))
    terms: list[Match] = []
    for part in text.split(","):
        key, operator, value = _split(part)
        if key not in known:
            raise bad_request(
                f'Unable to find "{resource.api_version}, Resource={resource.plural}" that match'
                f' label selector "", field selector "{text}": field label not supported: {key}'
            )
        terms.append(_field(key, value, same=operator != "!="))
    return lambda values: all(term(values) for term in terms)


def _split(part: str) -> tuple[str, str, str]:
    for operator in ("!=", "==", "="):
        key, found, value = part.partition(operator)
        if found:
            return key.strip(), operator, value.strip()
    raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")


def _field(key: str, value: str, *, same: bool) -> Match:
    return lambda values: (values.get(key, "") == value) is same


def field_values(resource: Resource, body: Mapping[str, Any]) -> dict[str, str]:
    """Return the selectable fields of an object."""
    metadata = body["metadata"]
    values = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace", ""),
    }
    for path, steps in _STEPS.get(resource, ()):
        at: Any = body
        for step in steps:
            at = at.get(step) if type(at) is dict else None
        if type(at) is dict:  # the field `source` of an event means its component
            at = at.get("component")
        values[path] = (
            str(at).lower() if at is True or at is False else "" if at is None else str(at)
        )
    return values


def requirement(values: Values, need: Mapping[str, Any]) -> bool:
    """Whether labels satisfy one ``matchExpressions`` entry of a node selector."""
    key, operator, wanted = need["key"], need["operator"], need.get("values") or []
    has = values.get(key)
    match operator:
        case "In":
            return has in wanted
        case "NotIn":
            return has not in wanted
        case "Exists":
            return has is not None
        case "DoesNotExist":
            return has is None
        case "Gt" | "Lt":
            try:
                return has is not None and (
                    int(has) > int(wanted[0]) if operator == "Gt" else int(has) < int(wanted[0])
                )
            except ValueError:
                return False
    return False
