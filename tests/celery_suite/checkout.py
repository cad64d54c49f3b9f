"""The folder in which the suites run: links to the checkout's tests and to ours, and no ``celery``,
so that the installed one is tested.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import celery

from tests.support import fetch

TESTS = Path(__file__).parents[1]
#: What the suites import beside our own packages; never installed.
PACKAGES = (
    "Django==5.2.19",
    "SQLAlchemy==2.0.58",
    "azure-storage-blob==12.31.1",
    "tblib==3.2.2",
)
#: Says in their folder which packages are there.
FETCHED = "fetched.txt"
_VERSION = re.compile(r"__version__ = ['\"]([^'\"]+)")
#: These run last: they take the longest.
LAST = ("test_canvas.py", "test_beat.py")


class WrongCheckout(Exception):
    """CELERY_REPO names a folder that has not the suites of the installed Celery."""


def prepare(repository: Path, folder: Path, packages: Path) -> list[str]:
    """Fill the folder and fetch the packages; returns the files of the suites, long ones last.

    Raises WrongCheckout.
    """
    package = repository / "celery" / "__init__.py"
    if not (repository / "t" / "integration" / "conftest.py").exists() or not package.exists():
        raise WrongCheckout(
            f"CELERY_REPO={repository} has no t/integration; name a checkout of Celery"
        )
    version = _VERSION.search(package.read_text())
    if version is None or version[1] != celery.__version__:
        raise WrongCheckout(
            f"CELERY_REPO={repository} is Celery {version and version[1]}, but {celery.__version__}"
            f" is installed; check out v{celery.__version__}"
        )
    _fetch(packages)
    for name in ("t", "pyproject.toml"):
        (folder / name).symlink_to(repository.resolve() / name)
    (folder / "tests").symlink_to(TESTS)
    files = sorted(path.name for path in (folder / "t" / "integration").glob("test_*.py"))
    files.sort(key=lambda name: LAST.index(name) + 1 if name in LAST else 0)
    return [f"t/integration/{name}" for name in files]


def _fetch(folder: Path) -> None:
    """Fetch the packages, unless an earlier run has fetched just these."""
    fetched = folder / FETCHED
    if not fetched.exists() or fetched.read_text().split() != list(PACKAGES):
        shutil.rmtree(folder, ignore_errors=True)
        fetch.packages(PACKAGES, folder)
        fetched.write_text("\n".join(PACKAGES))
