"""What a run of all mutants came to, and later ones of the mutants of some scripts."""

from __future__ import annotations

from typing import Any


def sentence(found: dict[str, Any]) -> str:
    """Return the result as sentences of the docs."""
    parts = found.get("parts", ())
    of = "mutants" if not parts else "mutants of all scripts at that time"
    return "\n".join([_of(found, of), *(_of(each, _names(each)) for each in parts)])


def _names(part: dict[str, Any]) -> str:
    return "mutants of " + ", ".join(f"`{each}`" for each in part["scripts"])


def _of(found: dict[str, Any], of: str) -> str:
    tried, live = found["mutants"], len(found["live"])
    later = f"; those that lived there again with the tests of {found.get('again')}"
    return (
        f"Of {found['of']} {of}, {tried} were tried: {found['caught']} were caught,"
        f" {found['equivalent']} behave as the script does, each for a reason that"
        f" `tests/mutants/equivalent.toml` names, and {live} lived.\n"
        f"Commit {found['commit']}, {found['date']}{later if 'again' in found else ''}."
    )
