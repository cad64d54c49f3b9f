"""What a run of all mutants came to."""

from __future__ import annotations

from typing import Any


def sentence(found: dict[str, Any]) -> str:
    """Return the result as sentences of the docs."""
    tried, live = found["mutants"], len(found["live"])
    later = f"; those that lived there again with the tests of {found.get('again')}"
    return (
        f"Of {found['of']} mutants, {tried} were tried: {found['caught']} were caught,"
        f" {found['equivalent']} behave as the script does, each for a reason that"
        f" `tests/mutants/equivalent.toml` names, and {live} lived.\n"
        f"Commit {found['commit']}, {found['date']}{later if 'again' in found else ''}."
    )
