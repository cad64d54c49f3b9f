"""The wheel and the source archive, as ``make wheel`` builds them."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import gpuqueue

pytestmark = pytest.mark.integration

ROOT = Path(gpuqueue.__file__).parents[1]
INPUTS = ("gpuqueue", "pyproject.toml", "README.md", "LICENSE")
#: All other files of the package are Python modules.
DATA = {
    "gpuqueue/py.typed",
    "gpuqueue/cli/view/timeline.html",
    *(str(path.relative_to(ROOT)) for path in ROOT.glob("gpuqueue/**/*.lua")),
}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build both from a copy, so that no file of an earlier build gets into them."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in INPUTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    build = [sys.executable, "-m", "build", "--no-isolation", str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return email.message_from_bytes(wheel.read(f"{dist_info()}/METADATA"))


def dist_info() -> str:
    return f"gpuqueue-{gpuqueue.__version__}.dist-info"


def modules() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in ROOT.glob("gpuqueue/**/*.py")}


def test_the_wheel_holds_the_package_and_no_other_file(wheel: zipfile.ZipFile) -> None:
    described = {
        *("METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"),
        "licenses/LICENSE",
    }
    expected = modules() | DATA | {f"{dist_info()}/{name}" for name in described}
    assert set(wheel.namelist()) == expected


def test_the_source_archive_holds_the_package_and_how_to_build_it(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {name for name in names if name.startswith("gpuqueue.egg-info/")}
    assert names - made == {
        *modules(),
        *DATA,
        *("pyproject.toml", "README.md", "LICENSE", "PKG-INFO", "setup.cfg"),
    }


def test_the_wheel_fits_any_supported_python(wheel: zipfile.ZipFile, metadata: Message) -> None:
    tags = email.message_from_bytes(wheel.read(f"{dist_info()}/WHEEL"))
    assert (tags["Tag"], tags["Root-Is-Purelib"]) == ("py3-none-any", "true")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Version"] == gpuqueue.__version__


def test_without_extras_the_wheel_needs_celery_and_redis(metadata: Message) -> None:
    needed = [word for word in metadata.get_all("Requires-Dist", []) if "extra ==" not in word]
    names = sorted(re.split("[<>=]", word)[0] for word in needed)
    assert names == ["celery[redis]", "redis", "tzdata"]


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    points = wheel.read(f"{dist_info()}/entry_points.txt").decode()
    assert points.split() == ["[console_scripts]", "gpuqueue", "=", "gpuqueue.cli:main"]
