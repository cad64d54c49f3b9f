"""Names that Kubernetes sees: of Jobs, labels, annotations, owners, instances. Each has one maker
and one reader here.

A Celery task id may be any text; what Kubernetes takes is a DNS label or a label's value. So what
reads well is a slug of it, what tells two apart is a hash, and what is true is the annotation.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from gpuqueue.model.kube_syntax import is_label_value
from gpuqueue.model.record import Record

#: The prefix of every label and annotation that is ours.
PREFIX = "gpuqueue.io/"
NAME = "app.kubernetes.io/name"
MANAGED_BY = "app.kubernetes.io/managed-by"
OWNER = PREFIX + "owner"
ROLE = PREFIX + "role"
JOB = PREFIX + "job"
ATTEMPT = PREFIX + "attempt"
CLASS = PREFIX + "class"
ISOLATION = PREFIX + "isolation"
TENANT = PREFIX + "tenant"
#: The annotation that holds what re-adopting an attempt needs.
RECORD = PREFIX + "record"

ATTEMPT_ROLE = "attempt"
#: An attempt at a container job: network policies tell it from what may speak with Redis.
CONTAINER_ROLE = "container"
FINISHER_ROLE = "finisher"
#: A Job's name leaves room for the six characters that its pod's name adds to it.
LONGEST_NAME = 57

_HASH_LENGTH = 20  # of base32: 100 bits
_SLUG_LENGTH = 20
_LABEL_SLUG_LENGTH = 40
_NO_NAME = re.compile(r"[^a-z0-9]+")
_MADE_VALID = re.compile(rf"(^|\.)[a-z2-7]{{{_HASH_LENGTH}}}\Z")
#: What the annotation keeps of a record beside owner and container, and of what type it is; the
#: first six are never absent.
_KEPT: dict[str, type | tuple[type, ...]] = {
    "delivery": str,
    "id": str,
    "gpu_class": str,
    "isolation": str,
    "attempt": int,
    "token": str,
    "time_limit": (int, float),
    "task": str,
    "name": str,
    "tenant": str,
    "retries": int,
    "nesting": int,
    "image": str,
}
_NEEDED = tuple(_KEPT)[:6]


class Instance(NamedTuple):
    """What runs an attempt: a Job, and its pod once that is known."""

    namespace: str
    job: str
    pod_uid: str = ""


# -- Jobs ------------------------------------------------------------------------------------------


def job_name(owner: str, record: Record) -> str:
    """Name an attempt's Job: the same for the same attempt, another for any other."""
    slug = _slug(record["id"], _SLUG_LENGTH)
    return "-".join(
        filter(None, ("gpu", slug, _hash(owner, *_identity(record)), str(record["attempt"])))
    )


def finisher_name(owner: str, record: Record, finisher: str) -> str:
    """Name the Job of one finish of a job: ``finisher`` is the claim that it finishes by."""
    return f"gpu-finish-{_hash(owner, *_identity(record), finisher)}"


def instance_of(namespace: str, job: str, pod_uid: str = "") -> str:
    """Name what runs an attempt: ``<namespace>/<job>``, and ``/<pod uid>`` once its pod is known."""
    return "/".join(filter(None, (namespace, job, pod_uid)))


def parse_instance(instance: str) -> Instance | None:
    """Read an instance; None for one that is no Job's (a process of the local launcher)."""
    parts = instance.split("/")
    return Instance(*parts) if 2 <= len(parts) <= 3 and all(parts) else None


# -- labels ----------------------------------------------------------------------------------------


def labels(owner: str, role: str, record: Record) -> dict[str, str]:
    """Return the labels of a Job and its pods: for selecting and for people; the truth is the
    annotation.
    """
    made = {
        NAME: "gpu-executor",
        MANAGED_BY: "gpuqueue",
        OWNER: owner,
        ROLE: role,
        JOB: label_value(record["id"]),
        ATTEMPT: str(record.get("attempt", 0)),  # 0: a finish of a job that was never launched
        CLASS: label_value(record["gpu_class"]),
        ISOLATION: record["isolation"],
    }
    if record.get("tenant"):
        made[TENANT] = label_value(record["tenant"])
    return made


def selector(owner: str, role: str | None = None) -> str:
    """Select everything of one owner; of one role where that is given."""
    return f"{MANAGED_BY}=gpuqueue,{OWNER}={owner}" + (f",{ROLE}={role}" if role else "")


def label_value(text: str) -> str:
    """Return a label's value for any text: itself where Kubernetes takes it, else a slug and a
    hash.

    Two texts never give one value: a text that looks like a made one is made anew.
    """
    if is_label_value(text) and not _MADE_VALID.search(text):
        return text
    return ".".join(filter(None, (_slug(text, _LABEL_SLUG_LENGTH), _hash(text))))


# -- the annotation --------------------------------------------------------------------------------


def annotations_of(owner: str, record: Record) -> dict[str, str]:
    """Return the annotation that :func:`record_of` reads."""
    said: Mapping[str, Any] = record
    kept = {name: said[name] for name in _KEPT if name in said}
    kept["owner"] = owner
    if said.get("container") is not None:
        kept["container"] = True
    # ASCII: the API server would put another character in the place of half a surrogate pair.
    return {RECORD: json.dumps(kept, separators=(",", ":"), sort_keys=True)}


def record_of(found: Mapping[str, str]) -> Record | None:
    """Read an attempt from its annotations; None for what has none, or one that somebody has
    changed beyond reading.

    ``container`` is True there for a container job: what it runs is in the pod itself.
    """
    try:
        kept = json.loads(found.get(RECORD, ""))
    except ValueError:
        return None
    if not isinstance(kept, dict) or any(name not in kept for name in _NEEDED):
        return None
    if not all(isinstance(kept[name], kind) for name, kind in _KEPT.items() if name in kept):
        return None
    record: Any = kept
    return record  # type: ignore[no-any-return]


# -- owners ----------------------------------------------------------------------------------------


def default_owner(namespace: str, cluster: str, redis_url: str) -> str:
    """Name whose Jobs these are: of one queue (its Redis), in one namespace of one cluster.

    Args:
        namespace: where the Jobs are.
        cluster: what tells this cluster from others that call their Redis by the same name.
        redis_url: where the queue's state lives.
    """
    digest = hashlib.sha256(json.dumps([cluster, identity_of(redis_url)]).encode()).hexdigest()[:10]
    return f"{namespace[:52].rstrip('-')}-{digest}"


def identity_of(url: str) -> str:
    """Return which Redis a URL means, whoever asks and however safely: ``host:port/db``, or
    ``path/db`` of a socket.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    db = (query.get("db") or query.get("virtual_host") or [""])[0].strip("/")
    if parts.scheme in ("unix", "redis+socket"):
        return f"{parts.path}/{db or 0}"
    host = parts.netloc.rpartition("@")[2].lower() or "localhost"
    if host.endswith("]") or ":" not in host:
        host += ":6379"
    return f"{host}/{db or parts.path.strip('/') or 0}"


def _identity(record: Record) -> tuple[str | int, ...]:
    return (
        record["gpu_class"],
        record["delivery"],
        record.get("attempt", 0),
        record.get("token", ""),
    )


def _slug(text: str, length: int) -> str:
    return _NO_NAME.sub("-", text.lower()).strip("-")[:length].rstrip("-")


def _hash(*parts: str | int) -> str:
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return base64.b32encode(digest).decode().lower()[:_HASH_LENGTH]
