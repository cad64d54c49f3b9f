"""The layout of the state in Redis, and the check that this version can read it.

The mark names the layout. Its key has no version, so every version finds it. A dispatcher sets the
mark if there is none, and checks it in every turn, since an upgrade may change it under a running
dispatcher. docs/operate/upgrades.md says what may change within a layout, and how to raise
:data:`gpuqueue.store.keys.VERSION`.
"""

from __future__ import annotations

import redis

from gpuqueue.errors import LayoutMismatch
from gpuqueue.model.redis_url import mask
from gpuqueue.store.keys import LAYOUT, UNMARKED, VERSION


def find(client: redis.Redis) -> str | None:
    """Return the layout of the state in Redis; None if no dispatcher has ever used it."""
    pipe = client.pipeline(transaction=False)
    pipe.get(LAYOUT)
    pipe.exists(UNMARKED)
    mark, unmarked = pipe.execute()
    return mark or ("1" if unmarked else None)


def check(client: redis.Redis, url: str, setting: str) -> None:
    """Raise :class:`LayoutMismatch` if the state has another layout. The error names the
    ``setting`` with the address.
    """
    _compare(find(client), url, setting)


def claim(client: redis.Redis, url: str, setting: str) -> None:
    """Set the mark to this layout if there is none. May be repeated. Raises
    :class:`LayoutMismatch` if the state has another layout.
    """
    if client.get(LAYOUT) == str(VERSION):
        return  # so it is in nearly every turn
    _compare(find(client), url, setting)
    if not client.set(LAYOUT, VERSION, nx=True):
        _compare(client.get(LAYOUT), url, setting)  # type: ignore[arg-type]


def _compare(found: str | None, url: str, setting: str) -> None:
    if found in (None, str(VERSION)):
        return
    older = found.isdecimal() and int(found) < VERSION
    fix = (
        f"let the version that wrote it end its jobs, then set the key {LAYOUT} to {VERSION}"
        " (docs/operate/upgrades.md)"
        if older
        else "run the version that wrote it, or use another Redis database"
    )
    raise LayoutMismatch(
        f"{setting}={mask(url)!r} holds the state of layout {found},"
        f" {'older' if older else 'newer'} than layout {VERSION}, the only one that this gpuqueue"
        f" reads; {fix}"
    )
