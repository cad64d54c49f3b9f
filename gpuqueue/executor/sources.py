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
        self._known = set(before)
        self._times: dict[str, int] = {}
        self._seen = 0
        self.add_imported()

    def add_imported(self) -> None:
        """Add the files of what was imported since."""
        if len(sys.modules) == self._seen:
            return
        self._seen = len(sys.modules)
        outside = (sys.prefix, sys.base_prefix, str(Path(__file__).parent.parent))
        for name in set(sys.modules) - self._known:
            path = getattr(sys.modules[name], "__file__", None)
            if path and not path.startswith(outside) and (time := _time(path)):
                self._times.setdefault(path, time)
            self._known.add(name)

    def changed(self) -> str:
        """Return a file that has changed or is gone; empty if all are as they were."""
        return next((path for path, time in self._times.items() if _time(path) != time), "")


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - for each file at each start
    except OSError:
        return 0
