"""Scripts are sent without the functions that they do not reach."""

from __future__ import annotations

from typing import Any

import pytest

from gpuqueue.store import reached
from gpuqueue.store.reached import OddScript, only_reached

PART = """\
local shop = {}
local function price(name)
  return shop.tax(name)
end

do
  -- Asks price.
  local function unused()
    return shop.gift()
  end

  function shop.tax(name)
    return 'rate:' .. name
  end

  function shop.gift()
    return price('bow')
  end
end
"""


def left_out(own: str, part: str = PART) -> set[str]:
    """Return the names of the functions of a part that a script is sent without."""
    text = only_reached(
        [("", "local K = {}\n"), ("lib/shop.lua", part), ("own.lua", own)], "own.lua"
    )
    assert text.count("\n") == f"local K = {{}}\n{part}{own}".count("\n")
    assert text.endswith(own)
    names = ("price", "unused", "shop.tax", "shop.gift")
    return {name for name in names if f"function {name}(" not in text}


@pytest.mark.parametrize(
    ("own", "missing"),
    [
        ("return 1\n", {"price", "unused", "shop.tax", "shop.gift"}),
        ("return shop.tax('a')\n", {"price", "unused", "shop.gift"}),
        ("return price('a')\n", {"unused", "shop.gift"}),
        ("return shop.gift()\n", {"unused"}),
        ("return unused()\n", set()),
    ],
    ids=["none", "of a table", "through another", "through two", "in a block"],
)
def test_a_function_stays_if_what_stays_has_its_name(own: str, missing: set[str]) -> None:
    assert left_out(own) == missing


def test_a_table_that_is_used_as_a_value_keeps_all_its_functions() -> None:
    assert left_out("local s = shop\nreturn s[KEYS[1]]()\n") == {"unused"}
    assert left_out("return shop[KEYS[1]]()\n") == {"unused"}


def test_a_key_or_a_field_with_the_name_of_a_table_keeps_no_function() -> None:
    assert left_out("local t = { shop = 1 }\nreturn t.shop\n") == left_out("return 1\n")


def test_functions_of_the_script_itself_stay() -> None:
    own = "local function mine()\n  return 1\nend\nreturn 2\n"
    assert only_reached([("own.lua", own)], "own.lua") == own


@pytest.mark.parametrize(
    "part",
    [
        "local function one() return 1 end\nlocal function two()\nend\n",
        "local function one()\n  return 1\n",
        "  local function one()\n    return 1 end\nfunction shop.two()\nend\n",
    ],
    ids=["in one line", "without an end", "an end in another line"],
)
def test_a_part_of_another_format_is_refused(part: str) -> None:
    with pytest.raises(OddScript, match=r"lib/shop\.lua:1: the function one needs a line 'end'"):
        left_out("return 1\n", part)


def test_a_part_is_taken_apart_once_for_all_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, take = list[str](), reached._pieces

    def counted(file: str, lines: list[str]) -> Any:
        taken.append(file)
        return take(file, lines)

    monkeypatch.setattr(reached, "_pieces", counted)
    part = PART.replace("shop", "stall")
    assert left_out("return stall.tax('a')\n", part) >= {"price", "unused"}
    assert left_out("return stall.gift()\n", part) >= {"unused"}
    assert taken == ["lib/shop.lua"]
