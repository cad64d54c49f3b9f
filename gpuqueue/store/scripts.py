"""Load and call the Lua scripts: one file per verb, with the library parts on its ``--!`` line.

A script sees its keys by name (``K.jobs``) and one JSON object, ``context``; the header of its file
documents the fields. A large text that the script only stores comes as ``ARGV[2]`` instead: inside
the context it would be encoded twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import redis
from redis.exceptions import NoScriptError

from gpuqueue.classes.choose import DRIVER_RESERVE
from gpuqueue.model import unbound
from gpuqueue.model.place import HOLDS, PlaceKind
from gpuqueue.model.reasons import DISRUPTIONS, OF_NODES, WASTED
from gpuqueue.model.record import KINDS, NEEDED, Use, fields_with
from gpuqueue.model.task_memory import MEASURED
from gpuqueue.store.counts import BOUNDS
from gpuqueue.store.keys import BUSY, LEASE_NAMES, LETTER_NAMES, NAMES, class_keys
from gpuqueue.store.reached import only_reached

#: How often a script that a changed server has not is loaded again.
LOADS = 5
#: The keys of the verbs of a folder. Those outside any folder work on the keys of a class.
_KEYS = {
    "": tuple(NAMES),
    "lease": tuple(LEASE_NAMES),
    "intake": tuple(LETTER_NAMES),
    "dead": (*LETTER_NAMES, "list"),
}
#: Library part → the tables that it needs from Python.
_TABLES: dict[str, dict[str, Sequence[object] | Mapping[str, object]]] = {
    "records": {"KINDS": KINDS, "NEEDED": NEEDED},
    "upkeep": {"BUSY": BUSY},
    "holds": {
        "HOLD_WAITS": {kind.value: each.wait.value for kind, each in HOLDS.items()},
        "HOLD_ENDS": {kind.value: each.end.value for kind, each in HOLDS.items()},
        "HOLD_STAGES": {kind.value: each.stage for kind, each in HOLDS.items()},
        "CLASS_HOLDS": [kind.value for kind in HOLDS if kind is not PlaceKind.IMAGE],
    },
    "counts": {"BOUNDS": BOUNDS},
    "attempts": {"OF_ATTEMPT": fields_with(Use.ATTEMPT)},
    "tombstones": {"KEPT": fields_with(Use.TOMBSTONE)},
    "accounting": {"WASTED": dict.fromkeys(sorted(WASTED), 1)},
    "domains": {
        "OF_NODES": OF_NODES,
        "UNBOUND": {"prefix": unbound.PREFIX, "later": unbound.LATER},
    },
    "task_memory": {"MEASURED": {**MEASURED, "reserve": DRIVER_RESERVE}},
    "release": {"DISRUPTIONS": dict.fromkeys(sorted(DISRUPTIONS), 1)},
}
#: The first word of the answer of a script that cannot keep a text of its caller.
_MARK = "UNSTORABLE"
_encode = json.JSONEncoder(separators=(",", ":")).encode


@cache
def script(verb: str) -> tuple[str, str]:
    """Return the whole text of a verb, and its name in Redis."""
    text = only_reached(sections(verb), f"{verb}.lua")
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def source(verb: str) -> str:
    """Return the whole text of a verb."""
    return script(verb)[0]


def read(*verbs: str) -> None:
    """Make the texts of verbs now, or of all. An upgrade of the package changes its files under a
    process that goes on with the older code.
    """
    for verb in verbs or _verbs(files("gpuqueue.store") / "lua"):
        read_files(verb)
        script(verb)


def read_files(*verbs: str) -> None:
    """Read the files of verbs now, for the same reason. A process that runs one job makes the texts
    of those alone that it calls.
    """
    for verb in verbs:
        _read_files(verb)


@cache
def _read_files(verb: str) -> None:
    for _ in sections(verb):
        pass


def _verbs(folder: Traversable, prefix: str = "") -> Iterator[str]:
    for each in folder.iterdir():
        if each.is_dir() and each.name != "lib":
            yield from _verbs(each, f"{prefix}{each.name}/")
        elif each.name.endswith(".lua"):
            yield prefix + each.name.removesuffix(".lua")


def sections(verb: str) -> Iterator[tuple[str, str]]:
    """Yield the parts of a verb's text with their files: keys and context, its library parts, its
    own lines. The file of a generated part is empty.

    What follows a ``--!`` line is a function within that of the line before; the next line adds to
    one that ends in a comma. Lua allows 200 local
    names in each, and 60 names of those around it. In one function, each function of a part would
    look for each name that it uses among all that the parts before it have.
    """
    own = _own(verb)
    yield "", _prelude(verb.rpartition("/")[0])
    depth = 0
    for line in own.splitlines():
        if not line.startswith("--!"):
            continue
        for part in line.removeprefix("--!").removesuffix(",").split():
            yield "", _tables(part)
            yield f"lib/{part}.lua", _library(part)
        if not line.endswith(","):
            yield "", "return (function()\n"
            depth += 1
    yield f"{verb}.lua", own
    yield "", "end)()\n" * depth


@cache
def _own(verb: str) -> str:
    return (files("gpuqueue.store") / "lua" / f"{verb}.lua").read_text(encoding="utf-8")


@cache
def _library(part: str) -> str:
    return _own(f"lib/{part}")


@cache
def _tables(part: str) -> str:
    return "".join(
        f"local {name} = {_in_lua(values)}\n" for name, values in _TABLES.get(part, {}).items()
    )


def _in_lua(value: object) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key} = {_in_lua(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"{{{', '.join(map(_in_lua, value))}}}"
    return repr(value)


def _prelude(folder: str) -> str:
    keys = ", ".join(f"{name} = KEYS[{index}]" for index, name in enumerate(_KEYS[folder], 1))
    return (
        f"local K = {{{keys}}}\n"
        "local readable, context = pcall(cjson.decode, ARGV[1])\n"
        f"if not readable then return redis.error_reply('{_MARK} ' .. tostring(context)) end\n"
    )


class UnstorableText(ValueError):
    """A script cannot keep a text of its caller. The data is at fault, and Redis works."""


#: The errors of data that Redis, or its client, cannot keep: repeating the call cannot help.
UNSTORABLE = (UnstorableText, UnicodeError, redis.DataError)


class Scripts:
    """Calls verbs. Each call is atomic and may be repeated, so the client retries it when a
    connection is lost.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def call(self, verb: str, gpu_class: str, body: str | None = None, /, **context: object) -> Any:
        """Call one verb on the keys of a class. Fields of the context that are None are left out.

        Args:
            verb: the name of its file.
            gpu_class: whose keys it gets.
            body: a text that the script only stores; most have none.
            context: what its header documents.
        """
        return self._run(verb, class_keys(gpu_class), _arguments(context, body))

    def call_on(self, keys: Sequence[str], verb: str, /, **context: object) -> Any:
        """Call one verb on keys that belong to no class."""
        return self._run(verb, keys, _arguments(context))

    def each(
        self, verb: str, calls: Sequence[tuple[str, Mapping[str, object]]]
    ) -> list[Any | Exception]:
        """Call one verb for several (class, context) in one round trip. Each call is atomic; all of
        them together are not. One that fails has its error in place of its answer.
        """
        text, sha = script(verb)
        arguments = [(class_keys(name), _arguments(context)) for name, context in calls]
        answers: list[Any] = []
        for _ in range(LOADS):
            pipe = self._client.pipeline(transaction=False)
            for keys, texts in arguments:
                pipe.evalsha(sha, len(keys), *keys, *texts)
            answers = pipe.execute(raise_on_error=False) if calls else []
            if not any(isinstance(answer, NoScriptError) for answer in answers):
                break
            self._client.script_load(text)
        return [_typed(answer) for answer in answers]

    def _run(self, verb: str, keys: Sequence[str], arguments: list[str]) -> Any:
        (text, sha), texts = script(verb), [*keys, *arguments]
        try:
            for _ in range(2 * LOADS):
                with suppress(NoScriptError):
                    return self._client.evalsha(sha, len(keys), *texts)
                # Until the next try another server may have become the primary, without the script.
                self._client.script_load(text)
            return self._client.evalsha(sha, len(keys), *texts)
        except redis.ResponseError as exc:
            raise _typed(exc) from None


def _typed(answer: Any) -> Any:
    """Return an answer, or an error, by its own class."""
    if isinstance(answer, redis.ResponseError) and str(answer).startswith(_MARK):
        return UnstorableText(str(answer))
    return answer


def _arguments(context: Mapping[str, object], body: str | None = None) -> list[str]:
    # JSON writes a float by its repr, so a time arrives exactly.
    try:
        known = _encode({name: value for name, value in context.items() if value is not None})
    except (ValueError, RecursionError) as exc:
        raise UnstorableText(str(exc)) from exc
    return [known] if body is None else [known, body]
