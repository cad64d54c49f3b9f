"""Decoding as the API server does it: it checks types, drops unknown fields and reports them."""

from __future__ import annotations

from typing import Any

from tests.doubles.kubernetes.objects.admission.fields import TYPES
from tests.doubles.kubernetes.objects.errors import Refused, bad_request
from tests.doubles.kubernetes.objects.quantity import canonical

_GO_NAMES = {"": "string", "i": "int32", "b": "bool", "q": "resource.Quantity"}
_JSON_NAMES = {
    str: "string",
    bool: "bool",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
}


def _read_types() -> dict[str, dict[str, str]]:
    types: dict[str, dict[str, str]] = {}
    words: list[str] = []
    for line in [*TYPES.strip().splitlines(), ""]:
        if words and not line.startswith(" "):
            types[words[0]] = {
                name: kind for name, _, kind in (word.partition(":") for word in words[1:])
            }
            words = []
        words += line.split()
    return types


_FIELDS = _read_types()


def decode_as(kind: str, body: Any) -> tuple[Any, list[str]]:
    """Return a copy of an object with known fields alone and canonical quantities, and the paths of
    its unknown fields.

    Raises:
        Refused: 400, a value has the wrong type.
    """
    unknown: list[str] = []
    return _Decoder(kind, unknown).value(kind, body, ""), unknown


def strict_error(kind: str, version: str, unknown: list[str]) -> Refused:
    """Return the refusal of unknown fields."""
    fields = ", ".join(f'unknown field "{path}"' for path in unknown)
    return bad_request(
        f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error:'
        f" {fields}"
    )


class _Decoder:
    def __init__(self, kind: str, unknown: list[str]) -> None:
        self._kind = kind
        self._unknown = unknown

    def value(self, wanted: str, value: Any, path: str) -> Any:
        if value is None or wanted == "o":
            return value
        if wanted.startswith("["):
            if not isinstance(value, list):
                raise self._mismatch(value, f"[]{wanted[1:-1]}", path)
            return [
                self.value(wanted[1:-1], item, f"{path}[{index}]")
                for index, item in enumerate(value)
            ]
        if wanted.startswith("{"):
            if not isinstance(value, dict):
                raise self._mismatch(value, "map[string]string", path)
            return {
                key: self.value(wanted[1:-1], item, f"{path}.{key}") for key, item in value.items()
            }
        if wanted in _FIELDS:
            return self._object(wanted, value, path)
        return self._scalar(wanted, value, path)

    def _object(self, wanted: str, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._mismatch(value, f"v1.{wanted}", path)
        fields = _FIELDS[wanted]
        known = {}
        for name, item in value.items():
            below = f"{path}.{name}" if path else name
            if name not in fields:
                self._unknown.append(below)
            elif item is not None:
                known[name] = self.value(fields[name], item, below)
        return known

    def _scalar(self, wanted: str, value: Any, path: str) -> Any:
        if wanted == "q" and not isinstance(value, bool) and isinstance(value, (str, int, float)):
            try:
                return canonical(value)
            except ValueError as error:
                raise self._cannot(str(error)) from error
        fits = {
            "i": isinstance(value, int) and not isinstance(value, bool),
            "b": isinstance(value, bool),
        }
        if not fits.get(wanted, isinstance(value, str)):
            raise self._mismatch(value, _GO_NAMES[wanted], path)
        return value

    def _mismatch(self, value: Any, wanted: str, path: str) -> Refused:
        has = _JSON_NAMES.get(type(value), "null")
        owner, _, field = path.rpartition(".")
        shown = f"{owner}.{field}" if owner else field
        return self._cannot(
            f"json: cannot unmarshal {has} into Go struct field {shown} of type {wanted}"
        )

    def _cannot(self, why: str) -> Refused:
        return bad_request(
            f'{self._kind} in version "v1" cannot be handled as a {self._kind}: {why}'
        )
