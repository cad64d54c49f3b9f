"""The record of a delivery: the fields that the store keeps. Pure: no I/O, no clock."""

from __future__ import annotations

from typing import Any, TypedDict


class Record(TypedDict, total=False):
    """What the store keeps of a delivery. Times are Unix seconds. An absent field is unknown.

    The scripts in ``gpuqueue/store/lua`` write it; ``lib/records.lua`` says what stays in a
    tombstone.
    """

    delivery: str
    id: str
    task: str
    name: str
    gpu_class: str
    isolation: str
    retries: int
    nesting: int
    priority: int
    tenant: str
    needs_app: bool
    signed: bool
    ignore_result: bool
    group: str
    image: str
    container: dict[str, Any]
    owner: str
    state: str
    reason: str
    error: str
    error_type: str
    attempt: int
    token: str
    by: str
    device: int
    instance: str
    worker: str
    cancel: str
    timed_out: str
    wait: str
    detail: str
    doomed: str
    doom_error: str
    doom_tried: str
    avoid: list[str]
    outcome: str
    finisher: str
    finish_tries: int
    time_limit: float
    created: float
    eta: float
    expires: float
    admitted: float
    launched: float
    started: float
    released: float
    ended: float
    adopted: float
    node: str
    pod: str
    exit_code: int
    container_reason: str
    scheduled: float
    container_started: float
    container_finished: float
    gpu: str
    gpu_memory_peak: int
    gpu_memory_own: int
    gpu_error: str
