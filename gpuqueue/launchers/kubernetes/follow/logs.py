"""The end of a pod log, within a size limit."""

from __future__ import annotations

import logging
import time

from gpuqueue.launchers.kubernetes.api.errors import ApiError
from gpuqueue.launchers.kubernetes.api.requests import Requests

logger = logging.getLogger(__name__)
#: Lines of the first request: a few screens, enough for a long traceback.
LINES = 400
#: Bytes that a response may have beyond the limit. The API cuts off the end of the selected lines,
#: and the end is what is needed.
MARGIN = 1 << 20
#: Seconds between two tries.
RETRY_EVERY = 0.5


def tail(api: Requests, pod: str, limit_bytes: int, within: float = 0.0) -> str:
    """Return the last lines of a pod log, at most ``limit_bytes`` of UTF-8.

    "" if there is no log: its container never started, or pod or node are gone. A missing log must
    not keep a job from ending: errors that pass are waited for up to ``within`` seconds.
    """
    lines, until = LINES, time.monotonic() + within
    while limit_bytes:
        try:
            text = api.pod_log(pod, lines, limit_bytes + MARGIN)
        except ApiError as exc:
            if exc.passing and time.monotonic() < until:
                time.sleep(RETRY_EVERY)
                continue
            logger.info("no log of pod %s: %s", pod, exc, extra={"action": "no_log"})
            break
        data = text.encode()
        if len(data) < limit_bytes + MARGIN or lines == 1:
            return keep_end(data, limit_bytes)
        lines = max(1, lines // 20)  # the end was cut off; request fewer lines
    return ""


def keep_end(data: bytes, limit_bytes: int) -> str:
    """Return the end of a text, in whole lines if possible. Invalid UTF-8 is replaced."""
    if len(data) > limit_bytes:
        start = len(data) - limit_bytes
        line_end = data.find(b"\n", start - 1, len(data) - 1)
        data = data[line_end + 1 :] if line_end >= 0 else data[start:].lstrip(_CONTINUATIONS)
    return data.decode(errors="replace")


#: The bytes after the first byte of a UTF-8 character.
_CONTINUATIONS = bytes(range(0x80, 0xC0))
