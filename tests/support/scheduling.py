"""A scheduler of pytest-xdist: files that share a fixture stay whole, see ``selection``.

Its own mark for that, ``xdist_group``, has no effect under pytest 9.2.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

from tests.support import selection


class UnitScheduling(LoadScopeScheduling):
    """Hands out the units of a run, in the order of its tests."""

    def _split_scope(self, nodeid: str) -> str:
        return selection.unit_of(nodeid)
