"""Names in Kubernetes: of Jobs, labels, annotations, owners, instances. Built and parsed only here.

A Celery task ID can be any text, but Kubernetes accepts only DNS labels and label values. So names
carry a readable slug and a unique hash of the ID, and the annotation holds the ID itself.
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
from gpuqueue.model.record import FIELDS, Record, Use, fields_with
from gpuqueue.model.sentinel_url import is_sentinel, parse
from gpuqueue.model.unbound import is_unbound

#: Prefix of all labels and annotations of gpuqueue.
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
#: What the domain of a pod was called before it had a node.
ORIGIN = PREFIX + "origin"
#: The annotation with the record fields for adopting an attempt.
RECORD = PREFIX + "record"

ATTEMPT_ROLE = "attempt"
#: An attempt at a container job: network policies deny it access to Redis.
CONTAINER_ROLE = "container"
FINISHER_ROLE = "finisher"
#: Longest name of a Job: the name of its pod adds six characters.
LONGEST_NAME = 57

_HASH_LENGTH = 20  # of base32: 100 bits
_SLUG_LENGTH = 20
_LABEL_SLUG_LENGTH = 40
_NOT_IN_SLUG = re.compile(r"[^a-z0-9]+")
_SLUG_AND_HASH = re.compile(rf"(^|\.)[a-z2-7]{{{_HASH_LENGTH}}}\Z")
#: Record fields in the annotation → the types that JSON may give them. Owner and container come in
#: addition.
_ANNOTATED = {
    name: (int, float) if FIELDS[name].kind is float else (FIELDS[name].kind,)
    for name in fields_with(Use.ANNOTATION)
}


class Instance(NamedTuple):
    """What runs an attempt: a Job, and its pod if known."""

    namespace: str
    job: str
    pod_uid: str = ""


# -- Jobs ------------------------------------------------------------------------------------------


def job_name(owner: str, record: Record) -> str:
    """Return the name of an attempt's Job, which is unique and always the same."""
    slug = _slug(record["id"], _SLUG_LENGTH)
    return "-".join(
        filter(None, ("gpu", slug, _hash(owner, *_identity(record)), str(record["attempt"])))
    )


def finisher_name(owner: str, record: Record, finisher: str) -> str:
    """Return the name of a finisher Job. ``finisher`` is the claim of the finish."""
    return f"gpu-finish-{_hash(owner, *_identity(record), finisher)}"


def instance_of(namespace: str, job: str, pod_uid: str = "") -> str:
    """Return an instance: ``<namespace>/<job>``, with ``/<pod uid>`` if the pod is known."""
    return "/".join(filter(None, (namespace, job, pod_uid)))


def parse_instance(instance: str) -> Instance | None:
    """Parse an instance; None if it is a process of the local launcher."""
    parts = instance.split("/")
    return Instance(*parts) if 2 <= len(parts) <= 3 and all(parts) else None


# -- labels ----------------------------------------------------------------------------------------


def labels(owner: str, role: str, record: Record) -> dict[str, str]:
    """Return the labels of a Job and its pods, for selectors and for people."""
    values = {
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
        values[TENANT] = label_value(record["tenant"])
    if origin := origin_of(record):
        values[ORIGIN] = origin
    return values


def origin_of(record: Record) -> str:
    """Return what the domain of an attempt is or was called without a node; "" if it always had
    one. Pods of one origin may share a node, and keep others away from it.
    """
    domain = record.get("domain", "")
    return domain if is_unbound(domain) else record.get("origin", "")


def selector(owner: str, role: str | None = None) -> str:
    """Return the label selector of an owner, or of one of its roles."""
    return f"{MANAGED_BY}=gpuqueue,{OWNER}={owner}" + (f",{ROLE}={role}" if role else "")


def label_value(text: str) -> str:
    """Return a label value for any text: the text if it is valid, else a slug and a hash.

    Two texts never give the same value: a text that looks like slug and hash gets a new hash.
    """
    if is_label_value(text) and not _SLUG_AND_HASH.search(text):
        return text
    return ".".join(filter(None, (_slug(text, _LABEL_SLUG_LENGTH), _hash(text))))


# -- the annotation --------------------------------------------------------------------------------


def annotations_of(owner: str, record: Record) -> dict[str, str]:
    """Return the annotation that :func:`record_of` parses."""
    fields: Mapping[str, Any] = record
    kept = {name: fields[name] for name in _ANNOTATED if name in fields}
    kept["owner"] = owner
    if fields.get("container") is not None:
        kept["container"] = True
    # ASCII: the API server would replace half a surrogate pair by another character.
    return {RECORD: json.dumps(kept, separators=(",", ":"), sort_keys=True)}


def record_of(annotations: Mapping[str, str]) -> Record | None:
    """Parse the record of an attempt from its annotations; None if missing or invalid.

    For a container job, ``container`` is True; its command is in the pod spec only.
    """
    try:
        kept = json.loads(annotations.get(RECORD, ""))
    except ValueError:
        return None
    if not isinstance(kept, dict) or any(name not in kept for name in fields_with(Use.REQUIRED)):
        return None
    if not all(isinstance(kept[name], kinds) for name, kinds in _ANNOTATED.items() if name in kept):
        return None
    record: Any = kept
    return record  # type: ignore[no-any-return]


# -- owners ----------------------------------------------------------------------------------------


def default_owner(namespace: str, cluster: str, redis_url: str) -> str:
    """Return the default owner: one queue (its Redis) in one namespace of one cluster.

    Args:
        namespace: the namespace of the Jobs.
        cluster: the identity of the cluster; other clusters may use the same name for their Redis.
        redis_url: the Redis that holds the queue state.
    """
    digest = hashlib.sha256(json.dumps([cluster, identity_of(redis_url)]).encode()).hexdigest()[:10]
    return f"{namespace[:52].rstrip('-')}-{digest}"


def identity_of(url: str) -> str:
    """Return the Redis of a URL without user, password and TLS: ``host:port/db`` or ``path/db``."""
    if is_sentinel(url):
        return parse(url).identity()
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
    return _NOT_IN_SLUG.sub("-", text.lower()).strip("-")[:length].rstrip("-")


def _hash(*parts: str | int) -> str:
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return base64.b32encode(digest).decode().lower()[:_HASH_LENGTH]
