"""The classes to which jobs go that run out of GPU memory (``larger``): checked together. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gpuqueue.classes.choose import has_more_memory
from gpuqueue.classes.gpu_class import GpuClass
from gpuqueue.errors import SettingsError


def check_larger(classes: Mapping[str, GpuClass], source: str) -> None:
    """Check that each class names another one that is larger, and that they form no cycle.
    ``source`` is the path of the classes file. Raises :class:`SettingsError`.
    """
    for name, each in classes.items():
        if each.larger is None:
            continue
        problem = f"{source}: classes.{name}.larger={each.larger!r}"
        if each.larger not in classes:
            known = ", ".join(sorted(set(classes) - {name}))
            fix = f"use one of: {known}" if known else "remove it, or add the class"
            raise SettingsError(f"{problem} is an unknown class; {fix}")
        if cycle := _cycle(classes, name):
            raise SettingsError(
                f"{problem} makes a cycle: {' -> '.join(cycle)}; remove larger from one of them"
            )
        if not has_more_memory(classes[each.larger], each):
            raise SettingsError(
                f"{problem} has no more memory than {name!r}; use a class with more memory"
            )


def _cycle(classes: Mapping[str, GpuClass], name: str) -> list[str]:
    """Return the cycle that the chain from a class runs into; empty: it ends."""
    chain = [name]
    while (following := classes[chain[-1]].larger) and following in classes:
        if following in chain:
            return [*chain[chain.index(following) :], following]
        chain.append(following)
    return []
