"""The faults. Each begins and ends on a stage, and is named by the row of the table in which its
schedules count.
"""

from __future__ import annotations

from tests.chaos.faults import paths, processes, servers
from tests.chaos.faults.base import Fault

__all__ = ["FAULTS", "Fault", "kinds"]


#: In the order of the modules, so that a seed stays the same schedule.
FAULTS: dict[str, type[Fault]] = {
    kind.name: kind
    for module in (processes, servers, paths)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Fault) and "name" in vars(kind)
}


def kinds(launcher: str) -> dict[str, str]:
    """Return the kinds of faults that a launcher knows, and what each acts on."""
    return {name: kind.on for name, kind in FAULTS.items() if launcher in kind.launchers}
