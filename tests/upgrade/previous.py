"""The code of the previous version, from the history of this repository, for processes that are to
run it.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The last commit before layouts were marked. What it calls itself is 0.1.0.
PREVIOUS = "34541e3"


def has_history(commit: str = PREVIOUS) -> bool:
    """Whether the commit is there: a shallow clone, or a tree without git, lacks it."""
    try:
        done = subprocess.run(
            ["git", "cat-file", "-e", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0


def unpack(directory: Path, commit: str = PREVIOUS) -> Path:
    """Lay a commit's package into a directory, which then is what PYTHONPATH has to begin with."""
    packed = subprocess.run(
        ["git", "archive", commit, "gpuqueue"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(directory, filter="data")
    return directory
