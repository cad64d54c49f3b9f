"""The lint of the Lua scripts finds what it is there for."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.lint import lua

CLEAN = ("clean.lua", "local key = KEYS[1]\nreturn redis.call('GET', key)\n")


@pytest.fixture(scope="module")
def luacheck() -> Any:
    try:
        return lua.load()
    except LookupError as exc:
        return pytest.fail(str(exc)) if os.environ.get("CI") == "true" else pytest.skip(str(exc))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("return redis.call('GET'\n", "011"),
        ("return missing(KEYS[1])\n", "113"),
        ("return os.time()\n", "113"),
        ("leaked = 1\nreturn 2\n", "111"),
        ("local unused = 1\nreturn 2\n", "211"),
        ("return 1 -- " + "x" * 100 + "\n", "631"),
    ],
    ids=["syntax", "undefined", "not in Redis", "leaked global", "unused", "width"],
)
def test_a_mistake_is_found_in_its_file(luacheck: Any, text: str, code: str) -> None:
    found = list(lua.lint(luacheck, [("wrong.lua", text)]))
    assert [(each.file, each.line, each.code) for each in found] == [("wrong.lua", 1, code)]


def test_a_problem_is_placed_in_its_part(luacheck: Any) -> None:
    parts = [("", "local K = { KEYS[1] }\n"), ("lib/a.lua", "local b = K\n"), ("c.lua", "\nx()\n")]
    found = {(each.file, each.line, each.code) for each in lua.lint(luacheck, parts)}
    assert found == {("lib/a.lua", 1, "211"), ("c.lua", 2, "113")}


def test_a_correct_text_has_no_problems(luacheck: Any) -> None:
    assert list(lua.lint(luacheck, [CLEAN])) == []


def test_every_script_is_linted() -> None:
    scripts = {path.name for path in lua.SCRIPTS.glob("*.lua")}
    assert {f"{verb}.lua" for verb in lua.verbs() if "/" not in verb} == scripts
    assert "lease/renew" in lua.verbs()


def test_a_function_with_more_names_than_lua_allows_is_found(luacheck: Any) -> None:
    names = [f"n{number}" for number in range(61)]
    text = f"local {', '.join(names)}\nreturn function() return {' + '.join(names)} end\n"
    [problem] = lua.refused(luacheck, "wide.lua", text)
    assert problem.message.endswith("more than 60 upvalues")
    assert not list(lua.refused(luacheck, *CLEAN))


def test_a_name_that_is_missing_in_the_text_as_sent_is_found(luacheck: Any) -> None:
    parts = [("lib/a.lua", "local function f() end\n"), ("c.lua", "return f()\n")]
    [problem] = lua.lint(luacheck, parts, "\nreturn f()\n")
    assert (problem.file, problem.line, problem.code) == ("c.lua", 1, "113")
