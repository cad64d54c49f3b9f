"""Parse the texts of the state that a forecast reads. What cannot be read is left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.forecast.run_times import Past
from gpuqueue.forecast.snapshot import NOWHERE_YET, Rules, Tenant
from gpuqueue.model.attempt import Attempt
from gpuqueue.model.names import EXCLUSIVE
from gpuqueue.model.place import PlaceKind
from gpuqueue.store.readable import readable

#: Seconds of a half-life if none is set; see lua/lib/tenants.lua.
HALF_LIFE = 86_400.0
#: Bytes of a task that accounts keep.
LONGEST_NAME = 200


def rules_of(gpu_class: GpuClass) -> Rules:
    """Return what a class says of its slots and bounds."""
    return Rules(
        gpu_class.shared_slots,
        gpu_class.exclusive_slots,
        gpu_class.exclusive_patience,
        gpu_class.shared_patience,
    )


def run_times_name(isolation: str, task: str, tenant: str) -> str:
    """As lua/lib/accounting.lua writes it."""
    known = task.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{isolation}:{tenant or '*'}:{known}"


def delivery_of(gpu_class: str, holder: str) -> str:
    attempt = Attempt.parse(gpu_class, holder)
    return attempt.delivery if attempt else ""


def device_names(terms: Mapping[str, str]) -> dict[str, str]:
    """Return the GPUs of machines, by their names as places, with their domains."""
    found: dict[str, str] = {}
    for text in terms.values():
        spec = (readable(text) or {}).get("spec")
        if not isinstance(spec, dict) or "host" not in spec:
            continue
        with suppress(ValueError, TypeError):
            known = range(int(spec.get("devices") or 0))
            names = spec.get("gpus") or known
            found |= {
                f"{PlaceKind.DEVICE}:{spec['host']}/{name}": str(at)
                for at, name in zip(known, names, strict=False)
            }
    return found


def domain_of(record: Mapping[str, Any]) -> str:
    if "domain" in record:
        return str(record["domain"])
    if "device" in record:
        return str(record["device"])
    return str(record.get("node", NOWHERE_YET))


def gpus_of(record: Mapping[str, Any]) -> int:
    """Return how many slots a job needs."""
    return max(1, int(record.get("gpus", 1))) if record.get("isolation") == EXCLUSIVE else 1


def seconds_of(text: str | None) -> list[float]:
    with suppress(ValueError, TypeError):
        return [float(each) for each in json.loads(text or "[]")]
    return []


def past_of(text: str) -> Past | None:
    with suppress(ValueError, TypeError, LookupError):
        one = json.loads(text)
        start, stop = int(one["start"]) / 1e6, int(one["stop"]) / 1e6
        return Past(
            one["isolation"],
            one["task"],
            one["tenant"],
            start - int(one["waited"]) / 1e6,
            stop,
            stop - start if one.get("began") else None,
            int(one["attempt"]) == 1,
        )
    return None


def rule_of(number: int, text: str | None) -> Tenant:
    entry = readable(text) or {}
    weight, most = entry.get("weight"), entry.get("max_running")
    return Tenant(
        number,
        weight=float(weight) if isinstance(weight, int | float) and weight > 0 else 1.0,
        max_running=int(most) if isinstance(most, int | float) else None,
        guaranteed=int(entry.get("guaranteed") or 0),
    )


def tenant_of(text: str | None, rule: str | None) -> Tenant | None:
    with suppress(ValueError, TypeError, LookupError):
        number, served, usage, _, at, *_ = json.loads(text or "")
        own = rule_of(int(number), rule)
        return Tenant(
            own.id,
            int(served),
            float(usage),
            float(at),
            own.weight,
            own.max_running,
            own.guaranteed,
        )
    return None
