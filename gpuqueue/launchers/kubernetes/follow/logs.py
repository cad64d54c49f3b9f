"""The end of a pod's log, bounded: what a job that failed is asked about first."""

from __future__ import annotations

import logging

from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests

logger = logging.getLogger(__name__)
#: Lines that are asked for at first: a screen or several, with a long traceback.
LINES = 400
#: The bytes that an answer may have beyond what is kept: the API cuts what the lines select at its
#: end, and the end is wanted.
GENEROUS = 1 << 20


def tail(api: Requests, pod: str, limit_bytes: int) -> str:
    """Return the last lines of a pod's log, ``limit_bytes`` of UTF-8 at most; "" when there is none
    to be had.

    None: its container never started, the pod or its node is gone. A log that cannot be had must
    not keep a job from ending.
    """
    lines = LINES
    while limit_bytes:
        try:
            text = api.pod_log(pod, lines, limit_bytes + GENEROUS)
        except ApiError as exc:
            logger.info("no log of pod %s: %s", pod, exc, extra={"action": "no_log"})
            break
        data = text.encode()
        if len(data) < limit_bytes + GENEROUS or lines == 1:
            return keep_end(data, limit_bytes)
        lines = max(1, lines // 20)  # the end was cut off; of fewer lines it is not
    return ""


def keep_end(data: bytes, limit_bytes: int) -> str:
    """Keep the end of a text, whole lines if it ends with any. Whatever is no UTF-8 is replaced."""
    if len(data) > limit_bytes:
        start = len(data) - limit_bytes
        line_end = data.find(b"\n", start - 1, len(data) - 1)
        data = data[line_end + 1 :] if line_end >= 0 else data[start:].lstrip(_CONTINUATIONS)
    return data.decode(errors="replace")


#: What a character of UTF-8 that was cut in two goes on with.
_CONTINUATIONS = bytes(range(0x80, 0xC0))
