"""Lints the Lua scripts with luacheck: ``python -m tests.lint.lua``.

Checked is each verb with the library parts that it names: syntax, undefined and unused names,
shadowed and unreachable code, width. A library part may have functions that a verb does not use; a
function that no verb uses is an error. Redis gets the text without the functions that the verb does
not reach (gpuqueue/store/reached.py): there too, no name may be undefined, and Lua must take it.

luacheck is written in Lua and has no package on the package index. It is taken out of the Debian
package ``lua-check`` (no root, nothing is installed) and runs on the Lua 5.1 of the package
``lupa``. On a machine without apt it is taken from Lua's own path, where ``luarocks install
luacheck`` puts it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lupa import LuaError, lua51

from gpuqueue.store.scripts import sections, source
from tests.support import fetch

PACKAGE = Path(__file__).parents[2] / "gpuqueue"
SCRIPTS = PACKAGE / "store" / "lua"
DEBIAN_PACKAGE = "lua-check"
#: The modules of the package, in the virtual environment.
MODULES = Path(sys.prefix) / "share" / "luacheck"
WIDTH = 100
#: Names that Redis gives to a script, of those that the scripts may use.
NAMES = (
    *("redis", "cjson", "KEYS", "ARGV", "math", "string", "table"),
    *("error", "ipairs", "next", "pairs", "pcall", "tonumber", "tostring", "type", "unpack"),
)
#: luacheck's codes of a name that is not defined, and of a name or value that is not used: 211 to
#: 241, 311 to 331.
UNDEFINED, UNUSED = "1", ("2", "3")


class Problem(NamedTuple):
    """One warning. ``file`` is relative to the folder of the scripts."""

    file: str
    line: int
    code: str
    message: str


def main() -> int:
    """Print the problems; return the exit status."""
    try:
        luacheck = load()
    except LookupError as exc:
        print(exc, file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    found = problems(luacheck, verbs())
    for path in sorted(PACKAGE.rglob("*.lua")):
        if not path.is_relative_to(SCRIPTS):  # a script with keys of Celery
            found += lint(luacheck, [(str(path), path.read_text())])
    for each in found:
        print(f"{SCRIPTS / each.file}:{each.line}: {each.message} ({each.code})")
    return 1 if found else 0


def verbs() -> list[str]:
    """Return the names of all verbs."""
    paths = (path.relative_to(SCRIPTS).with_suffix("") for path in sorted(SCRIPTS.rglob("*.lua")))
    return [path.as_posix() for path in paths if path.parts[0] != "lib"]


def load() -> Any:
    """Return a Lua runtime and its luacheck. Raises LookupError if luacheck cannot be had."""
    if not MODULES.exists():
        _take_out()
    runtime = lua51.LuaRuntime()
    patterns = ";".join(f"{MODULES}/{each}" for each in ("?.lua", "?/init.lua"))
    runtime.execute(f"package.path = '{patterns};' .. package.path")
    try:
        return runtime, runtime.eval("require('luacheck')")
    except LuaError:
        raise LookupError(
            f"no luacheck: apt has no package {DEBIAN_PACKAGE} here; install it with `luarocks"
            " install luacheck` for Lua 5.1. The scripts are not linted (with CI=true this fails)"
        ) from None


def _take_out() -> None:
    MODULES.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the move is one step: other test processes do the same.
    with tempfile.TemporaryDirectory(dir=MODULES.parent) as name:
        for package in fetch.debian([DEBIAN_PACKAGE], Path(name)):
            fetch.unpack_debian(package, Path(name) / "unpacked")
            try:
                (Path(name) / "unpacked" / "usr" / "share" / "lua" / "5.1").rename(MODULES)
            except OSError:
                if not MODULES.exists():  # else another process was first
                    raise


def problems(loaded: Any, names: list[str]) -> list[Problem]:
    """Lint verbs; return what is wrong, each problem once."""
    once: dict[Problem, None] = {}
    unused: Counter[Problem] = Counter()
    users: Counter[str] = Counter()
    for verb in names:
        parts = list(sections(verb))
        users.update(file for file, _ in parts)
        for problem in lint(loaded, parts):
            if problem.file.startswith("lib/") and problem.code.startswith(UNUSED):
                unused[problem] += 1
            elif problem.file:
                once[problem] = None
        sent = source(verb)
        once.update(dict.fromkeys(refused(loaded, f"{verb}.lua", sent)))
        for problem in lint(loaded, parts, sent):
            if problem.code.startswith(UNDEFINED):
                once[problem] = None
    return sorted([*once, *(each for each, times in unused.items() if times == users[each.file])])


def refused(loaded: Any, file: str, text: str) -> Iterator[Problem]:
    """Yield why Lua does not take a text: a function has more names than it may have."""
    runtime, _ = loaded
    answer = runtime.eval("function(text) return select(2, loadstring(text)) end")(text)
    if answer:
        yield Problem(file, 0, "load", str(answer).rpartition("]:")[2])


def lint(loaded: Any, parts: list[tuple[str, str]], sent: str | None = None) -> Iterator[Problem]:
    """Yield the problems of one text, given as (file, part of the text). ``sent``: the same lines
    as Redis gets them.
    """
    runtime, luacheck = loaded
    options = runtime.table_from({"std": "none", "max_line_length": WIDTH})
    options["read_globals"] = runtime.table_from(NAMES)
    text = sent or "".join(text for _, text in parts)
    report = luacheck.check_strings(runtime.table_from([text]), options)[1]
    if report.fatal:
        raise SystemExit(f"luacheck: {report.fatal}")
    for warning in report.values():
        file, line = _place(parts, warning.line)
        yield Problem(file, line, warning.code, luacheck.get_message(warning))


def _place(parts: list[tuple[str, str]], line: int) -> tuple[str, int]:
    for file, text in parts:
        lines = text.count("\n")
        if line <= lines:
            return file, line
        line -= lines
    return parts[-1][0], line


if __name__ == "__main__":
    sys.exit(main())
