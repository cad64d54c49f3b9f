"""Places: where attempts run, and what can fail them all. Pure.

A place is a kind and a name, written ``kind:name``. The scripts (store/lua/lib/places.lua) make the
same texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from gpuqueue.model.reasons import EndReason, WaitReason


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
    LAUNCH = "launch"
    """Creating the Jobs of a class and their pods: ``launch:CLASS``."""
    QUOTA = "quota"
    """The quota of the namespace, for a class: ``quota:CLASS``."""
    SCHEDULING = "scheduling"
    """Nodes that take the pods of a class: ``scheduling:CLASS``."""
    PODS = "pods"
    """What the pods of a class need on their nodes (a volume, a Secret): ``pods:CLASS``."""
    IMAGE = "image"
    """An image that nodes pull: ``image:IMAGE``."""
    FINISHES = "finishes"
    """Pods without a GPU that finish jobs in the code of their application: ``finishes:CLASS``, or
    ``finishes:IMAGE`` if their image is missing. Attempts start meanwhile."""


class Hold(NamedTuple):
    """What a place does that is no GPU, host, application or node: it holds a class, or an image.

    ``wait``: why the jobs wait. ``end``: their end if the hold lasts for too long. ``stage``: how
    far an attempt must get to end it: 1 its pod exists, 2 it has a node, 3 its executor runs.
    """

    wait: WaitReason
    end: EndReason
    stage: int


#: Kind → what it does. Its first failure is believed, since the cluster tells its cause.
HOLDS: Final = {
    PlaceKind.LAUNCH: Hold(WaitReason.LAUNCH_REFUSED, EndReason.INFRA, 1),
    PlaceKind.QUOTA: Hold(WaitReason.QUOTA, EndReason.QUOTA, 1),
    PlaceKind.SCHEDULING: Hold(WaitReason.UNSCHEDULABLE, EndReason.UNSCHEDULABLE, 2),
    PlaceKind.PODS: Hold(WaitReason.LAUNCH_REFUSED, EndReason.BAD_SPEC, 3),
    PlaceKind.IMAGE: Hold(WaitReason.IMAGE, EndReason.IMAGE, 3),
}
#: When an attempt follows one that met a hold, in the scripts' words.
TRIED_WHEN_HELD: Final = "held"


def kind_of(place: str) -> str:
    """Return the kind of a place."""
    return place.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Site:
    """What the places of a dispatcher's attempts are named after.

    ``host`` is empty if the attempts run in pods; ``images`` has class → its image there, and
    ``gpus`` class → its GPUs elsewhere. ``settings`` names the environment in which the processes
    of a host start: one with another environment takes no further job; ``pods`` names class → what
    its pods are made from. ``held`` names class → seconds that a job waits for a hold; the jobs of
    other classes wait without an end.
    """

    host: str = ""
    application: str = ""
    gpus: Mapping[str, Sequence[str]] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    pods: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)

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
            "held_timeout": self.held.get(gpu_class, 0),
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
    domain: str = ""
    """The domain that a GPU is, for people; empty: none, or unknown."""

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
            str(found.get("domain", "")),
        )
