"""Whether the files of the application have changed since they were imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path


class Sources:
    """The files that an import brought, with their times.

    Args:
        before: the names of the modules before the import.
    """

    def __init__(self, before: Iterable[str]) -> None:
        known = set(before)
        outside = (sys.prefix, sys.base_prefix, str(Path(__file__).parent.parent))
        paths = {getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - known}
        self._times = {
            path: time
            for path in paths
            if path and not path.startswith(outside) and (time := _time(path))
        }

    def changed(self) -> str:
        """Return a file that has changed or is gone; empty if all are as they were."""
        return next((path for path, time in self._times.items() if _time(path) != time), "")


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - for each file at each start
    except OSError:
        return 0
