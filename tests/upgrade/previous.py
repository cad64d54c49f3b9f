"""The code of the previous version, from the history of this repository, for processes that are to
run it.
"""

from __future__ import annotations

import io
import subprocess
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The last commit before layouts were marked. What it calls itself is 0.1.0.
PREVIOUS = "34541e3"
#: The last commit whose dispatchers do not know that a class can be held.
BEFORE_HOLDS = "67994e7"
#: The last commit whose scripts of this folder run on that code: later ones import by a newer
#: layout of the package.
SCRIPTS_AT = "6c5680c"
#: Script of this folder → its name in that commit.
SCRIPTS = {"contract.py": "contract.py", "later_fields.py": "carried.py"}


def has_history(commit: str = PREVIOUS) -> bool:
    """Whether the commit is there: a shallow clone, or a tree without git, lacks it.

    Raises:
        AssertionError: the whole history is here, without this commit.
    """
    try:
        if _git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0:
            return True
        whole = _git("rev-parse", "--is-shallow-repository").stdout.strip() == b"false"
    except FileNotFoundError:
        return False
    assert not whole, f"commit {commit} is not in the history: name one that is"
    return False


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)


def unpack(directory: Path, commit: str = PREVIOUS) -> Path:
    """Put a commit's package, and the scripts that run on it, into a directory for PYTHONPATH."""
    packed = subprocess.run(
        ["git", "archive", "--format=zip", commit, "gpuqueue"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(directory)
    for name, former in SCRIPTS.items():
        script = f"{SCRIPTS_AT}:tests/upgrade/{former}"
        shown = subprocess.run(["git", "show", script], cwd=ROOT, capture_output=True, check=True)
        (directory / name).write_bytes(shown.stdout)
    return directory
