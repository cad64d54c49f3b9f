"""Places: where attempts run, and what can fail them all. Pure.

A place is a kind and a name, written ``kind:name``. The scripts (store/lua/lib/places.lua) make the
same texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class PlaceKind(StrEnum):
    """What a place is."""

    DEVICE = "device"
    """One GPU of a machine: ``device:HOST/UUID``."""
    HOST = "host"
    """A machine that starts executors: ``host:NAME``."""
    APPLICATION = "application"
    """The application where it is loaded: ``application:APP@HOST``, or ``@IMAGE`` in pods."""
    NODE = "node"
    """A node of a cluster: ``node:NAME``."""


def kind_of(place: str) -> str:
    """Return the kind of a place."""
    return place.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Site:
    """What the places of a dispatcher's attempts are named after.

    ``host`` is empty if the attempts run in pods; ``images`` has class → its image there, and
    ``gpus`` class → its GPUs elsewhere. ``settings`` names the environment in which the processes
    of a host start: one with another environment takes no further job; ``pods`` names class → what
    its pods are made from.
    """

    host: str = ""
    application: str = ""
    gpus: Mapping[str, Sequence[str]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    pods: Mapping[str, str] = field(default_factory=dict)

    def settings_of(self, gpu_class: str) -> str:
        """Return what names the settings of the instances of a class."""
        return self.pods.get(gpu_class, self.settings)

    def spec(self, gpu_class: str) -> dict[str, Any]:
        """Return the fields for the scripts; empty ones are left out."""
        known = {
            "host": self.host,
            "application": self.application,
            "gpus": list(self.gpus.get(gpu_class, ())),
            "image": self.images.get(gpu_class, ""),
        }
        return {name: value for name, value in known.items() if value}


#: Attempts without a known place.
NOWHERE = Site()


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of one place. Times are Unix seconds."""

    name: str
    failures: int
    """Failures in a row."""
    jobs: Sequence[str]
    """Task ids of some of the jobs that met them."""
    since: float
    """Time of the first failure."""
    until: float | None
    """A probe may start from then on; None: the place is not set aside."""
    pause: float
    """Seconds between the last failed probe and ``until``."""
    probe: str
    """The holder that tries the place; it may have ended."""
    error: str

    @property
    def kind(self) -> str:
        """Its kind."""
        return kind_of(self.name)

    @classmethod
    def parse(cls, name: str, found: Mapping[str, Any]) -> Place:
        """Parse what the scripts keep, without fields of a newer version."""
        return cls(
            name,
            int(found.get("failures", 0)),
            sorted(found.get("jobs") or ()),
            float(found.get("since", 0)),
            None if found.get("until") is None else float(found["until"]),
            float(found.get("pause", 0)),
            str(found.get("probe", "")),
            str(found.get("error", "")),
        )
