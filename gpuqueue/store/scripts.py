"""Load the Lua scripts: one file a verb, with the library parts that its ``--!`` line names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import redis

from gpuqueue.store.counts import lua
from gpuqueue.store.keys import NAMES, class_keys

_PRELUDE = (
    "local K = {"
    + ", ".join(f"{name} = KEYS[{index}]" for index, name in enumerate(NAMES, 1))
    + "}\n"
    + lua()
)


@cache
def source(verb: str) -> str:
    """Return the whole text of a verb: the names of the keys, its library parts, its own lines."""
    root = files("gpuqueue.store") / "lua"
    text = (root / f"{verb}.lua").read_text()
    parts = [
        line.removeprefix("--!").split() for line in text.splitlines() if line.startswith("--!")
    ]
    libraries = [(root / "lib" / f"{part}.lua").read_text() for names in parts for part in names]
    return _PRELUDE + "\n".join([*libraries, text])


class Scripts:
    """Calls verbs on the keys of a class."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._loaded: dict[str, Any] = {}

    def call(self, verb: str, gpu_class: str, *arguments: str | float) -> Any:
        """Run one verb atomically; safe to repeat, so the client retries it over a lost connection."""
        script = self._loaded.get(verb)
        if script is None:
            script = self._loaded[verb] = self._client.register_script(source(verb))
        return script(keys=class_keys(gpu_class), args=_plain(arguments))

    def pipelined(self, verb: str, calls: Sequence[tuple[str, Sequence[str | float]]]) -> list[Any]:
        """Run one verb for several (class, arguments) in one round trip; each is atomic, all
        together are not.
        """
        pipe = self._client.pipeline(transaction=False)
        script = self._client.register_script(source(verb))
        for gpu_class, arguments in calls:
            script(keys=class_keys(gpu_class), args=_plain(arguments), client=pipe)
        return pipe.execute() if calls else []


def _plain(arguments: Sequence[str | float]) -> list[str]:
    # repr keeps a time exact; "1e+22" never occurs among what is passed here.
    return [argument if isinstance(argument, str) else repr(argument) for argument in arguments]
