"""Finds which lines of the scripts a test reaches: scripts that say so in the log of their Redis.

A mutant differs from the script in one line, so only tests that reach this line can catch it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest import MonkeyPatch

from gpuqueue.dev.embedded_redis import EmbeddedRedis
from gpuqueue.store import scripts
from tests.mutants.derive import mutants

_ELSEIF = re.compile(r"^(\s*elseif )(.+)( then)$")
#: No name more: Lua allows 200 in a function, and 60 of those around it. The functions within the
#: first one are called by it.
_BEFORE = """
do
  local reached = setmetatable({}, {__call = function(all, line)
    if not all[line] then
      all[line] = true
      all[#all + 1] = line
    end
    return true
  end})
  function reached.run(verb)
    if reached.runs then return verb() end
    reached.runs = true
    local well, answer = pcall(verb)
    for i = 1, #reached, 20 do
      local last = math.min(i + 19, #reached)
      redis.log(redis.LOG_WARNING, 'reached ' .. table.concat(reached, ' ', i, last))
    end
    if not well then error(answer, 0) end
    return answer
  end
  K.reached = reached
end
"""
#: A line of the log has 1,023 bytes at most, so each of the above names 20 lines.
_VERB, _END = "return (function()\n", "end)()\n"


def where(file: str, number: int) -> str:
    """Return the name of a line."""
    return f"{file}:{number}"


@contextmanager
def replaced(text_of: Callable[[str, str], str]) -> Iterator[None]:
    """Scripts loaded meanwhile have ``text_of(file, text)`` in place of each part; the file of a
    generated part is empty.
    """
    real = scripts.sections

    def sections(verb: str) -> Iterator[tuple[str, str]]:
        for file, text in real(verb):
            yield file, text_of(file, text)

    with MonkeyPatch.context() as patch:
        patch.setattr(scripts, "sections", sections)
        scripts.script.cache_clear()
        yield
    scripts.script.cache_clear()


@contextmanager
def reached() -> Iterator[Callable[[], set[str]]]:
    """Yields a function: it returns the lines with guards that scripts have reached since it was
    called before, on each embedded Redis that was started meanwhile.
    """
    logs: dict[Path, int] = {}
    found: set[str] = set()
    start, end = EmbeddedRedis.start, EmbeddedRedis._end

    def read() -> None:
        for log, seen in logs.items():
            if log.exists():
                with log.open("rb") as file:
                    file.seek(seen)
                    text = file.read()
                logs[log] = seen + len(text)
                for names in re.findall(rb"\breached (.+)", text):
                    found.update(names.decode().split())

    def started(server: EmbeddedRedis) -> EmbeddedRedis:
        answer = start(server)
        assert server.directory is not None
        logs.setdefault(server.directory / "redis.log", 0)
        return answer

    def ended(server: EmbeddedRedis, how: signal.Signals) -> None:
        read()
        end(server, how)

    def new() -> set[str]:
        read()
        names = set(found)
        found.clear()
        return names

    lines: dict[str, set[int]] = {}
    for mutant in mutants():
        lines.setdefault(mutant.file, set()).add(mutant.number)
    with MonkeyPatch.context() as patch, replaced(lambda file, text: _saying(file, text, lines)):
        patch.setattr(EmbeddedRedis, "start", started)
        patch.setattr(EmbeddedRedis, "_end", ended)
        yield new


def _saying(file: str, text: str, lines: dict[str, set[int]]) -> str:
    """Return a part of a script that says which of its lines with guards are reached."""
    if text.startswith("local K = {"):
        return text + _BEFORE
    if not file:
        return text.replace(_VERB, "return K.reached.run(function()\n").replace(_END, "end)\n")
    changed = text.split("\n")
    for number in lines.get(file, ()):
        line = changed[number - 1]
        says = f"K.reached('{where(file, number)}')"
        match = _ELSEIF.match(line)
        changed[number - 1] = (
            f"{match[1]}{says} and ({match[2]}){match[3]}" if match else f"{says} {line}"
        )
    return "\n".join(changed)
