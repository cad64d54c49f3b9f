"""What a run of all mutants came to, and later ones of some."""

from __future__ import annotations

from typing import Any

#: The fields of the result of a run of some mutants: of which scripts, and new since which commit.
SOME = ("scripts", "since")


def sentence(found: dict[str, Any]) -> str:
    """Return the result as sentences of the docs."""
    parts = found.get("parts", ())
    of = names(found) + (" of all scripts at that time" if parts else "")
    return "\n".join([_of(found, of), *(_of(each, names(each)) for each in parts)])


def names(result: dict[str, Any]) -> str:
    """Return which mutants a result is of."""
    scripts = ", ".join(f"`{each}`" for each in result.get("scripts", ()))
    since = f" that commit {result['since']} does not have" if "since" in result else ""
    return "mutants" + (f" of {scripts}" if scripts else "") + since


def are_of_one(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results are of the same mutants."""
    return all(one.get(name) == other.get(name) for name in SOME)


def _of(found: dict[str, Any], of: str) -> str:
    tried, live = found["mutants"], len(found["live"])
    # A commit that the history no longer has is not named.
    at = f"Commit {found['commit']}, " if found["commit"] else ""
    again = f" at {found['again']}" if found.get("again") else ""
    later = f"; those that lived, again{again}" if "again" in found else ""
    return (
        f"Of {found['of']} {of}, {tried} were tried: {found['caught']} were caught,"
        f" {found['equivalent']} behave alike, and {live} lived.\n"
        f"{at}{found['date']}{later}."
    )
