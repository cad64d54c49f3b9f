"""The limits of this process: code of a task that lowers one must not keep its outcome from being
written.
"""

from __future__ import annotations

import resource
from contextlib import suppress

#: Those that writing an outcome may meet.
_NEEDED = (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)


def now() -> dict[int, int]:
    """Return the soft limits of now."""
    return {each: resource.getrlimit(each)[0] for each in _NEEDED}


def restore(limits: dict[int, int]) -> None:
    """Set the soft limits of before, as far as the hard ones allow."""
    for each, before in limits.items():
        soft, hard = resource.getrlimit(each)
        if soft != before:
            lower = hard != resource.RLIM_INFINITY and not 0 <= before <= hard
            with suppress(ValueError, OSError):
                resource.setrlimit(each, (hard if lower else before, hard))
