"""A value whose pickle runs code where it is read."""

from __future__ import annotations

from collections.abc import Callable


class Trap:
    """Tells of it when a pickle of it is read."""

    read = 0

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return spring, ()


def spring() -> None:
    Trap.read += 1
