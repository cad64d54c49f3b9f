"""The layout of what lies in Redis, and that nobody works beside a state of another layout than its
own.

The mark says the layout. Its key carries no version, so every version finds it. A dispatcher sets
it where there is none and looks at it in every turn: an upgrade may change it under a dispatcher
that runs. What may change within a layout, and what whoever raises
:data:`gpuqueue.store.keys.VERSION` has to do: docs/operate/upgrades.md.
"""

from __future__ import annotations

import redis

from gpuqueue.errors import LayoutMismatch
from gpuqueue.model.redis_url import mask
from gpuqueue.store.keys import LAYOUT, UNMARKED, VERSION


def find(client: redis.Redis) -> str | None:
    """Return the layout of what lies in Redis; None: no dispatcher was ever there."""
    pipe = client.pipeline(transaction=False)
    pipe.get(LAYOUT)
    pipe.exists(UNMARKED)
    mark, unmarked = pipe.execute()
    return mark or ("1" if unmarked else None)


def check(client: redis.Redis, url: str, setting: str) -> None:
    """Raise :class:`LayoutMismatch` where the state is of another layout; it names the ``setting``
    that the address came from.
    """
    _compare(find(client), url, setting)


def claim(client: redis.Redis, url: str, setting: str) -> None:
    """Mark the state as ours, where there is none or it is ours. May be repeated. Raises
    :class:`LayoutMismatch`.
    """
    if client.get(LAYOUT) == str(VERSION):
        return  # as in nearly every turn
    _compare(find(client), url, setting)
    if not client.set(LAYOUT, VERSION, nx=True):
        _compare(client.get(LAYOUT), url, setting)  # type: ignore[arg-type]


def _compare(found: str | None, url: str, setting: str) -> None:
    if found in (None, str(VERSION)):
        return
    older = found.isdecimal() and int(found) < VERSION
    fix = (
        f"have the version that wrote it end its jobs, then set the key {LAYOUT} to {VERSION}"
        " (docs/operate/upgrades.md)"
        if older
        else "run the version that wrote it, or name another Redis database"
    )
    raise LayoutMismatch(
        f"{setting}={mask(url)!r} holds the state of layout {found},"
        f" {'older' if older else 'newer'} than layout {VERSION}, which alone this gpuqueue reads;"
        f" {fix}"
    )
